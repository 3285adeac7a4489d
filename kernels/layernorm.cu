// LayerNorm over rows of C elements, with an optional residual (Ba et al., arXiv 1607.06450), and its backward:
//
//   sum = x + residual,   out = (sum - mean) rstd weight + bias,   rstd = 1 / sqrt(variance + eps)
//   with h = (x - mean) rstd and g = dout weight:
//   dx (+)= rstd (g - mean(g) - h mean(g h)),   dweight (+)= sum over n of dout h,   dbias (+)= sum over n of dout
//
// x, residual, sum, out, dout, dx: [N, C] in rows of their own pitch; weight, bias, dweight, dbias: [C]; mean, rstd:
// [N]; partials: [P, 2 C] without gaps, P sums over blocks of `block` neighbouring rows, for dweight and for dbias.
// residual and sum are absent (null) or both there, and may be the same memory, which is why neither is __restrict__:
// each element is read before the same thread writes it.
//
// The variance is the mean of squared deviations, in a second pass over the row: E[x^2] - E[x]^2 would lose all digits
// where the mean is large. dweight and dbias are added up in an order that depends on N alone: the same bits every
// time.
//
// Roofline: forward 8 bytes per element, 16 with a residual; backward 12, or 16 when accumulating; some ten operations
// per element: bound by memory. The passes after the first find a row (4 C bytes) in the first-level cache.
#include "common/reduce.cuh"

constexpr int kNaiveThreads = 64;

// One thread for each row.
KERNEL(layernorm_naive_f32, kNaiveThreads, 8, const float* __restrict__ x, const float* residual, float* sum,
       const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ out,
       float* __restrict__ mean, float* __restrict__ rstd, int rows, int width, int x_pitch, int residual_pitch,
       int sum_pitch, int out_pitch, float eps) {
  int n = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (n >= rows) return;
  const float* row = x + row_start(n, x_pitch);
  out += row_start(n, out_pitch);
  if (residual) {
    residual += row_start(n, residual_pitch);
    sum += row_start(n, sum_pitch);
    for (int c = 0; c < width; c++) sum[c] = row[c] + residual[c];
    row = sum;
  }
  float mu = 0.0f;
  for (int c = 0; c < width; c++) mu += row[c];
  mu /= width;
  // One long sum of C elements rounds so often that the mean is off by `rest`, which the deviations show.
  float squares = 0.0f, rest = 0.0f;
  for (int c = 0; c < width; c++) {
    float d = row[c] - mu;
    squares = fmaf(d, d, squares);
    rest += d;
  }
  rest /= width;
  mu += rest;
  float scale = 1.0f / sqrtf(squares / width - rest * rest + eps);
  mean[n] = mu;
  rstd[n] = scale;
  for (int c = 0; c < width; c++) out[c] = fmaf((row[c] - mu) * scale, weight[c], bias[c]);
}

// One warp for each row: neighbouring lanes read neighbouring elements, and sums need no shared memory and no barrier.
constexpr int kWarps = 4;

KERNEL(layernorm_warp_f32, kWarps * 32, 8, const float* __restrict__ x, const float* residual, float* sum,
       const float* __restrict__ weight, const float* __restrict__ bias, float* __restrict__ out,
       float* __restrict__ mean, float* __restrict__ rstd, int rows, int width, int x_pitch, int residual_pitch,
       int sum_pitch, int out_pitch, float eps) {
  int lane = threadIdx.x % 32, n = blockIdx.x * kWarps + threadIdx.x / 32;
  // All lanes of the warp or none: those that go on meet in shuffles.
  if (n >= rows) return;
  const float* row = x + row_start(n, x_pitch);
  out += row_start(n, out_pitch);
  float mu = 0.0f;
  if (residual) {
    residual += row_start(n, residual_pitch);
    sum += row_start(n, sum_pitch);
    for (int c = lane; c < width; c += 32) {
      float value = row[c] + residual[c];
      sum[c] = value;
      mu += value;
    }
    // A lane reads again only what it wrote itself.
    row = sum;
  } else {
    for (int c = lane; c < width; c += 32) mu += row[c];
  }
  mu = warp_sum(mu) / width;
  float squares = 0.0f;
  for (int c = lane; c < width; c += 32) squares = fmaf(row[c] - mu, row[c] - mu, squares);
  float scale = 1.0f / sqrtf(warp_sum(squares) / width + eps);
  if (lane == 0) {
    mean[n] = mu;
    rstd[n] = scale;
  }
  for (int c = lane; c < width; c += 32) out[c] = fmaf((row[c] - mu) * scale, weight[c], bias[c]);
}

// One thread for each row.
KERNEL(layernorm_dx_naive_f32, kNaiveThreads, 8, const float* __restrict__ dout, const float* __restrict__ x,
       const float* __restrict__ weight, const float* __restrict__ mean, const float* __restrict__ rstd,
       float* __restrict__ dx, int rows, int width, int dout_pitch, int x_pitch, int dx_pitch, int accumulate_dx) {
  int n = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (n >= rows) return;
  dout += row_start(n, dout_pitch);
  x += row_start(n, x_pitch);
  dx += row_start(n, dx_pitch);
  float mu = mean[n], scale = rstd[n], mean_g = 0.0f, mean_gh = 0.0f;
  for (int c = 0; c < width; c++) {
    float g = dout[c] * weight[c];
    mean_g += g;
    mean_gh = fmaf(g, (x[c] - mu) * scale, mean_gh);
  }
  mean_g /= width;
  mean_gh /= width;
  for (int c = 0; c < width; c++) {
    float d = scale * (dout[c] * weight[c] - mean_g - (x[c] - mu) * scale * mean_gh);
    dx[c] = accumulate_dx ? dx[c] + d : d;
  }
}

constexpr int kColumnThreads = 128;

// One thread for each block of rows (blockIdx.x) and column.
KERNEL(layernorm_partials_naive_f32, kColumnThreads, 8, const float* __restrict__ dout, const float* __restrict__ x,
       const float* __restrict__ mean, const float* __restrict__ rstd, float* __restrict__ partials, int rows,
       int width, int block, int dout_pitch, int x_pitch) {
  int p = blockIdx.x, c = blockIdx.y * kColumnThreads + threadIdx.x;
  if (c >= width) return;
  float dweight = 0.0f, dbias = 0.0f;
  for (int n = p * block; n < min((p + 1) * block, rows); n++) {
    float d = dout[row_start(n, dout_pitch) + c];
    dweight = fmaf(d, (x[row_start(n, x_pitch) + c] - mean[n]) * rstd[n], dweight);
    dbias += d;
  }
  partials += row_start(2 * p, width);
  partials[c] = dweight;
  partials[width + c] = dbias;
}

// One thread for each column adds up the P partial sums.
KERNEL(layernorm_finish_f32, kColumnThreads, 8, const float* __restrict__ partials, float* __restrict__ dweight,
       float* __restrict__ dbias, int count, int width, int accumulate) {
  int c = blockIdx.x * kColumnThreads + threadIdx.x;
  if (c >= width) return;
  float w = accumulate ? dweight[c] : 0.0f, b = accumulate ? dbias[c] : 0.0f;
  for (int p = 0; p < count; p++) {
    w += partials[row_start(2 * p, width) + c];
    b += partials[row_start(2 * p + 1, width) + c];
  }
  dweight[c] = w;
  dbias[c] = b;
}

// Everything but the last sum in one pass over memory: a thread block for each block of rows, 32 rows at a time. First
// each warp computes dx of one of them; then each thread adds all 32 to the sums of the columns that it owns, from the
// cache that the warps have just filled. The sums lie in shared memory (2 C floats) because a thread owns any number of
// columns; no other thread touches them, so there is no barrier.
//
// There are no more than 64 blocks, for a short sum at the end: 32 warps each keep as many loads in flight as they can.
constexpr int kBackwardWarps = 32;
constexpr int kBackwardThreads = 32 * kBackwardWarps;

KERNEL(layernorm_backward_warp_f32, kBackwardThreads, 1, const float* __restrict__ dout, const float* __restrict__ x,
       const float* __restrict__ weight, const float* __restrict__ mean, const float* __restrict__ rstd,
       float* __restrict__ dx, float* __restrict__ partials, int rows, int width, int block, int dout_pitch,
       int x_pitch, int dx_pitch, int accumulate_dx) {
  SMEM_DYN(float, sums);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int c = threadIdx.x; c < width; c += kBackwardThreads) {
    sums[c] = 0.0f;
    sums[width + c] = 0.0f;
  }
  int end = min((int)(blockIdx.x + 1) * block, rows);
  for (int tile = blockIdx.x * block; tile < end; tile += kBackwardWarps) {
    int n = tile + warp;
    // The same for all lanes of the warp: those that go in meet in shuffles.
    if (n < end) {
      const float* dout_row = dout + row_start(n, dout_pitch);
      const float* x_row = x + row_start(n, x_pitch);
      float* dx_row = dx + row_start(n, dx_pitch);
      float mu = mean[n], scale = rstd[n], mean_g = 0.0f, mean_gh = 0.0f;
      for (int c = lane; c < width; c += 32) {
        float g = dout_row[c] * weight[c];
        mean_g += g;
        mean_gh = fmaf(g, (x_row[c] - mu) * scale, mean_gh);
      }
      mean_g = warp_sum(mean_g) / width;
      mean_gh = warp_sum(mean_gh) / width;
      for (int c = lane; c < width; c += 32) {
        float d = scale * (dout_row[c] * weight[c] - mean_g - (x_row[c] - mu) * scale * mean_gh);
        dx_row[c] = accumulate_dx ? dx_row[c] + d : d;
      }
    }
    for (int c = threadIdx.x; c < width; c += kBackwardThreads) {
      float dweight = sums[c], dbias = sums[width + c];
      for (int r = tile; r < min(tile + kBackwardWarps, end); r++) {
        float d = dout[row_start(r, dout_pitch) + c];
        dweight = fmaf(d, (x[row_start(r, x_pitch) + c] - mean[r]) * rstd[r], dweight);
        dbias += d;
      }
      sums[c] = dweight;
      sums[width + c] = dbias;
    }
  }
  partials += row_start(2 * blockIdx.x, width);
  for (int c = threadIdx.x; c < width; c += kBackwardThreads) {
    partials[c] = sums[c];
    partials[width + c] = sums[width + c];
  }
}
