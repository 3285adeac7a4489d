// The backward pass of LayerNorm (layernorm.cu). With h = (x - mean) rstd and g = dout weight:
//
//   dx (+)= rstd (g - mean(g) - h mean(g h)),   dweight (+)= sum over n of dout h,   dbias (+)= sum over n of dout
//
// dout, x, dx: [N, C] in rows of their own pitch; weight: [C]; all float or all bf16. mean, rstd: [N]; dweight, dbias:
// [C]; partials: [P, 2 C] without gaps, P sums over blocks of `block` neighbouring rows, for dweight and for dbias; all
// of these are always float. dweight and dbias are added up in an order that depends on N and C alone: the result has
// the same bits every time.
//
// Roofline: 12 bytes per element, or 16 when accumulating, half of that in bf16; some twenty operations per element:
// memory-bound. `warp` reads a row twice from L1, and a tile of 32 rows once more for the column sums; its 64 blocks
// leave half of an H100's SMs idle. In `vector` a thread keeps its columns for all rows of the block: their weights and
// both of their sums stay in registers, and every byte is read once. Threads only exchange the two sums over each row,
// for several rows per barrier. 8192 rows of 768 in bf16 are 512 blocks of 96 threads, 3.9 per SM (of 5 that 128
// registers allow), with 8 to 12 loads of 16 bytes in flight per thread: 48 KB and more, where 16 KB cover the latency
// of memory. The 512 partial sums, 3 MB compared to 38, stay in L2 for a short launch that adds them up.
#include "common/columns.cuh"
#include "common/reduce.cuh"
#include "common/vector.cuh"

constexpr int kNaiveThreads = 64;

#define DX_PARAMETERS(T) \
  const T* __restrict__ dout, const T* __restrict__ x, const T* __restrict__ weight, const float* __restrict__ mean, \
      const float* __restrict__ rstd, T* __restrict__ dx, int rows, int width, int dout_pitch, int x_pitch, \
      int dx_pitch, int accumulate_dx
#define DX_ARGUMENTS dout, x, weight, mean, rstd, dx, rows, width, dout_pitch, x_pitch, dx_pitch, accumulate_dx

// One thread per row.
template <class T>
DEVICE void layernorm_dx_naive(DX_PARAMETERS(T)) {
  int n = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (n >= rows) return;
  dout += row_start(n, dout_pitch);
  x += row_start(n, x_pitch);
  dx += row_start(n, dx_pitch);
  float mu = mean[n], scale = rstd[n], mean_g = 0.0f, mean_gh = 0.0f;
  for (int c = 0; c < width; c++) {
    float g = to_float(dout[c]) * to_float(weight[c]);
    mean_g += g;
    mean_gh = fmaf(g, (to_float(x[c]) - mu) * scale, mean_gh);
  }
  mean_g /= width;
  mean_gh /= width;
  for (int c = 0; c < width; c++) {
    float g = to_float(dout[c]) * to_float(weight[c]);
    float d = scale * (g - mean_g - (to_float(x[c]) - mu) * scale * mean_gh);
    dx[c] = to<T>(accumulate_dx ? to_float(dx[c]) + d : d);
  }
}

KERNEL(layernorm_dx_naive_f32, kNaiveThreads, 8, DX_PARAMETERS(float)) { layernorm_dx_naive(DX_ARGUMENTS); }

KERNEL(layernorm_dx_naive_bf16, kNaiveThreads, 8, DX_PARAMETERS(bf16)) { layernorm_dx_naive(DX_ARGUMENTS); }

constexpr int kColumnThreads = 128;

#define PARTIALS_PARAMETERS(T) \
  const T* __restrict__ dout, const T* __restrict__ x, const float* __restrict__ mean, \
      const float* __restrict__ rstd, float* __restrict__ partials, int rows, int width, int block, int dout_pitch, \
      int x_pitch

// One thread per block of rows (blockIdx.x) and column.
template <class T>
DEVICE void layernorm_partials_naive(PARTIALS_PARAMETERS(T)) {
  int p = blockIdx.x, c = blockIdx.y * kColumnThreads + threadIdx.x;
  if (c >= width) return;
  float dweight = 0.0f, dbias = 0.0f;
  for (int n = p * block; n < min((p + 1) * block, rows); n++) {
    float d = to_float(dout[row_start(n, dout_pitch) + c]);
    dweight = fmaf(d, (to_float(x[row_start(n, x_pitch) + c]) - mean[n]) * rstd[n], dweight);
    dbias += d;
  }
  partials += row_start(2 * p, width);
  partials[c] = dweight;
  partials[width + c] = dbias;
}

KERNEL(layernorm_partials_naive_f32, kColumnThreads, 8, PARTIALS_PARAMETERS(float)) {
  layernorm_partials_naive(dout, x, mean, rstd, partials, rows, width, block, dout_pitch, x_pitch);
}

KERNEL(layernorm_partials_naive_bf16, kColumnThreads, 8, PARTIALS_PARAMETERS(bf16)) {
  layernorm_partials_naive(dout, x, mean, rstd, partials, rows, width, block, dout_pitch, x_pitch);
}

// One thread per column adds up the P partial sums.
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
// each warp computes dx of one of them. Then each thread adds all 32 rows to the sums of the columns that it owns, from
// the cache that the warps have just filled. The sums are in shared memory (2 C floats) because a thread owns any
// number of columns; no other thread accesses them, so there is no barrier.
//
// There are at most 64 blocks, so that the sum at the end is short; each of their 32 warps keeps as many loads in
// flight as it can.
constexpr int kBackwardWarps = 32;
constexpr int kBackwardThreads = 32 * kBackwardWarps;

#define BACKWARD_PARAMETERS(T) \
  const T* __restrict__ dout, const T* __restrict__ x, const T* __restrict__ weight, const float* __restrict__ mean, \
      const float* __restrict__ rstd, T* __restrict__ dx, float* __restrict__ partials, int rows, int width, \
      int block, int dout_pitch, int x_pitch, int dx_pitch, int accumulate_dx
#define BACKWARD_ARGUMENTS \
  dout, x, weight, mean, rstd, dx, partials, rows, width, block, dout_pitch, x_pitch, dx_pitch, accumulate_dx

template <class T>
DEVICE void layernorm_backward_warp(BACKWARD_PARAMETERS(T)) {
  SMEM_DYN(float, sums);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int c = threadIdx.x; c < width; c += kBackwardThreads) {
    sums[c] = 0.0f;
    sums[width + c] = 0.0f;
  }
  int end = min((int)(blockIdx.x + 1) * block, rows);
  for (int tile = blockIdx.x * block; tile < end; tile += kBackwardWarps) {
    int n = tile + warp;
    // The same for all lanes of the warp, which take part in shuffles.
    if (n < end) {
      const T* dout_row = dout + row_start(n, dout_pitch);
      const T* x_row = x + row_start(n, x_pitch);
      T* dx_row = dx + row_start(n, dx_pitch);
      float mu = mean[n], scale = rstd[n], mean_g = 0.0f, mean_gh = 0.0f;
      for (int c = lane; c < width; c += 32) {
        float g = to_float(dout_row[c]) * to_float(weight[c]);
        mean_g += g;
        mean_gh = fmaf(g, (to_float(x_row[c]) - mu) * scale, mean_gh);
      }
      mean_g = warp_sum(mean_g) / width;
      mean_gh = warp_sum(mean_gh) / width;
      for (int c = lane; c < width; c += 32) {
        float g = to_float(dout_row[c]) * to_float(weight[c]);
        float d = scale * (g - mean_g - (to_float(x_row[c]) - mu) * scale * mean_gh);
        dx_row[c] = to<T>(accumulate_dx ? to_float(dx_row[c]) + d : d);
      }
    }
    for (int c = threadIdx.x; c < width; c += kBackwardThreads) {
      float dweight = sums[c], dbias = sums[width + c];
      for (int r = tile; r < min(tile + kBackwardWarps, end); r++) {
        float d = to_float(dout[row_start(r, dout_pitch) + c]);
        dweight = fmaf(d, (to_float(x[row_start(r, x_pitch) + c]) - mean[r]) * rstd[r], dweight);
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

KERNEL(layernorm_backward_warp_f32, kBackwardThreads, 1, BACKWARD_PARAMETERS(float)) {
  layernorm_backward_warp(BACKWARD_ARGUMENTS);
}

KERNEL(layernorm_backward_warp_bf16, kBackwardThreads, 1, BACKWARD_PARAMETERS(bf16)) {
  layernorm_backward_warp(BACKWARD_ARGUMENTS);
}

// The sums of COUNT numbers over a warp, each in its own group of 32 / COUNT lanes. In each step a lane exchanges half
// of its numbers for the counterparts of the other half, until it has one left: 9 shuffles for 8 numbers instead of 40.
template <int COUNT>
DEVICE float warp_sums(float (&values)[COUNT]) {
  int lane = threadIdx.x % 32, distance = 16;
#pragma unroll
  for (int half = COUNT / 2; half > 0; half /= 2, distance /= 2) {
    bool upper = lane & distance;
#pragma unroll
    for (int i = 0; i < half; i++) {
      float mine = upper ? values[half + i] : values[i], other = upper ? values[i] : values[half + i];
      values[i] = mine + __shfl_xor_sync(kAllLanes, other, distance);
    }
  }
  return warp_sum<32 / COUNT>(values[0]);
}

// For each value, one sum per warp. The rows are padded so that the lanes of a warp, COUNT groups, read from different
// banks.
template <int COUNT>
struct RowSums {
  float value[COUNT][32 + 32 / COUNT];
};

// Sums over a block of up to 32 warps; every thread receives all of them. No thread may still be reading `buffer` from
// an earlier call.
template <int COUNT>
DEVICE void block_sums(float (&values)[COUNT], RowSums<COUNT>& buffer) {
  constexpr int kGroup = 32 / COUNT;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  float sum = warp_sums(values);
  if (lane % kGroup == 0) buffer.value[lane / kGroup][warp] = sum;
  __syncthreads();
  sum = 0.0f;
  for (int w = lane % kGroup; w < warps; w += kGroup) sum += buffer.value[lane / kGroup][w];
  sum = warp_sum<kGroup>(sum);
#pragma unroll
  for (int i = 0; i < COUNT; i++) values[i] = __shfl_sync(kAllLanes, sum, i * kGroup);
}

// A thread for each 16 bytes of a row, up to 512, and a thread block for each block of rows, four at a time. Rows begin
// and end at multiples of 16 bytes. Threads beyond the row take part with zeros.
constexpr int kRows = 4;

template <class T>
DEVICE void layernorm_backward_vector(BACKWARD_PARAMETERS(T)) {
  constexpr int kEach = Vec<T>::kSize;
  // Two buffers, used alternately: before one is written again, all threads have passed a barrier after reading it.
  SMEM(RowSums<2 * kRows>, buffers, [2]);
  int c = threadIdx.x * kEach, current = 0;
  bool inside = c < width;
  Vec<T> w = {};
  if (inside) w = load(weight + c);
  float dweight[kEach] = {}, dbias[kEach] = {};
  int end = min((int)(blockIdx.x + 1) * block, rows);
  for (int tile = blockIdx.x * block; tile < end; tile += kRows, current ^= 1) {
    Raw<T> douts[kRows], inputs[kRows], olds[kRows];
    float mu[kRows], scale[kRows];
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      int n = tile + r;
      douts[r] = {};
      inputs[r] = {};
      mu[r] = 0.0f;
      scale[r] = 0.0f;
      if (n < end) {
        if (inside) {
          douts[r] = load_raw(dout + row_start(n, dout_pitch) + c);
          inputs[r] = load_raw(x + row_start(n, x_pitch) + c);
          if (accumulate_dx) olds[r] = load_raw(static_cast<const T*>(dx + row_start(n, dx_pitch) + c));
        }
        mu[r] = mean[n];
        scale[r] = rstd[n];
      }
    }
    float sums[2 * kRows];
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      const Vec<T> d = unpack(douts[r]), z = unpack(inputs[r]);
      sums[2 * r] = 0.0f;
      sums[2 * r + 1] = 0.0f;
#pragma unroll
      for (int j = 0; j < kEach; j++) {
        float g = d.v[j] * w.v[j], h = (z.v[j] - mu[r]) * scale[r];
        sums[2 * r] += g;
        sums[2 * r + 1] = fmaf(g, h, sums[2 * r + 1]);
        dweight[j] = fmaf(d.v[j], h, dweight[j]);
        dbias[j] += d.v[j];
      }
    }
    block_sums(sums, buffers[current]);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (tile + r < end && inside) {
        float mean_g = sums[2 * r] / width, mean_gh = sums[2 * r + 1] / width;
        Vec<T> d = unpack(douts[r]);
        const Vec<T> z = unpack(inputs[r]);
#pragma unroll
        for (int j = 0; j < kEach; j++) {
          d.v[j] = scale[r] * (d.v[j] * w.v[j] - mean_g - (z.v[j] - mu[r]) * scale[r] * mean_gh);
        }
        if (accumulate_dx) {
          const Vec<T> old = unpack(olds[r]);
#pragma unroll
          for (int j = 0; j < kEach; j++) d.v[j] = old.v[j] + d.v[j];
        }
        store(dx + row_start(tile + r, dx_pitch) + c, d);
      }
    }
  }
  if (inside) {
    partials += row_start(2 * blockIdx.x, width) + c;
#pragma unroll
    for (int j = 0; j < kEach; j += 4) {
      store(partials + j, Vec<float>{{dweight[j], dweight[j + 1], dweight[j + 2], dweight[j + 3]}});
      store(partials + width + j, Vec<float>{{dbias[j], dbias[j + 1], dbias[j + 2], dbias[j + 3]}});
    }
  }
}

KERNEL(layernorm_backward_vec16_f32, 512, 1, BACKWARD_PARAMETERS(float)) {
  layernorm_backward_vector(BACKWARD_ARGUMENTS);
}

KERNEL(layernorm_backward_vec16_bf16, 512, 1, BACKWARD_PARAMETERS(bf16)) {
  layernorm_backward_vector(BACKWARD_ARGUMENTS);
}

// Adds up many partial sums: columns of dweight, then of dbias, side by side as in `partials`.
KERNEL(layernorm_finish_tiled_f32, kColumns * kRowLanes, 1, const float* __restrict__ partials,
       float* __restrict__ dweight, float* __restrict__ dbias, int count, int width, int accumulate) {
  int c = blockIdx.x * kColumns + threadIdx.x;
  float total = tiled_column_sum(partials, count, 2 * width, c, 2 * width);
  if (threadIdx.y == 0 && c < 2 * width) {
    float* out = c < width ? dweight + c : dbias + (c - width);
    *out = accumulate ? *out + total : total;
  }
}
