// LayerNorm over rows of C elements, with an optional residual (Ba et al., arXiv 1607.06450):
//
//   sum = x + residual,   out = (sum - mean) rstd weight + bias,   rstd = 1 / sqrt(variance + eps)
//
// x, residual, sum, out: [N, C] in rows of their own pitch; weight, bias: [C]; all float or all bf16. mean, rstd: [N],
// always float. residual and sum are both absent (null) or both present, and may be the same memory, which is why
// neither is __restrict__: each element is read before the same thread writes it. A bf16 sum is rounded before it is
// normalised, so that mean and rstd belong to the sum that the backward pass reads.
//
// The variance is the mean of squared deviations, in a second pass over the row: E[x^2] - E[x]^2 would lose all digits
// where the mean is large.
//
// Roofline: 8 bytes per element, 16 with a residual, half of that in bf16; some ten operations per element:
// memory-bound. In `naive` and `warp` the passes after the first find the row (4 C bytes) in L1. `vector` holds it in
// registers, up to 32 elements per thread, so that memory is read once, with all loads in flight before anything is
// added: a row of 768 in bf16 is three loads of 16 bytes per lane, six with a residual. With 32 warps (64 registers; 24
// warps in f32) an SM has 48 to 96 KB in flight, where 16 KB cover the latency of an H100.
#include "common/reduce.cuh"
#include "common/vector.cuh"

#define LAYERNORM_PARAMETERS(T) \
  const T* __restrict__ x, const T* residual, T* sum, const T* __restrict__ weight, const T* __restrict__ bias, \
      T* __restrict__ out, float* __restrict__ mean, float* __restrict__ rstd, int rows, int width, int x_pitch, \
      int residual_pitch, int sum_pitch, int out_pitch, float eps
#define LAYERNORM_ARGUMENTS \
  x, residual, sum, weight, bias, out, mean, rstd, rows, width, x_pitch, residual_pitch, sum_pitch, out_pitch, eps

constexpr int kNaiveThreads = 64;

// One thread per row.
template <class T>
DEVICE void layernorm_naive(LAYERNORM_PARAMETERS(T)) {
  int n = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (n >= rows) return;
  const T* row = x + row_start(n, x_pitch);
  out += row_start(n, out_pitch);
  if (residual) {
    residual += row_start(n, residual_pitch);
    sum += row_start(n, sum_pitch);
    for (int c = 0; c < width; c++) sum[c] = to<T>(to_float(row[c]) + to_float(residual[c]));
    row = sum;
  }
  float mu = 0.0f;
  for (int c = 0; c < width; c++) mu += to_float(row[c]);
  mu /= width;
  // A sequential sum of C elements rounds so often that the mean is off by `rest`, which the deviations reveal.
  float squares = 0.0f, rest = 0.0f;
  for (int c = 0; c < width; c++) {
    float d = to_float(row[c]) - mu;
    squares = fmaf(d, d, squares);
    rest += d;
  }
  rest /= width;
  mu += rest;
  float scale = 1.0f / sqrtf(squares / width - rest * rest + eps);
  mean[n] = mu;
  rstd[n] = scale;
  for (int c = 0; c < width; c++) {
    out[c] = to<T>(fmaf((to_float(row[c]) - mu) * scale, to_float(weight[c]), to_float(bias[c])));
  }
}

KERNEL(layernorm_naive_f32, kNaiveThreads, 8, LAYERNORM_PARAMETERS(float)) { layernorm_naive(LAYERNORM_ARGUMENTS); }

KERNEL(layernorm_naive_bf16, kNaiveThreads, 8, LAYERNORM_PARAMETERS(bf16)) { layernorm_naive(LAYERNORM_ARGUMENTS); }

// One warp per row: neighbouring lanes read neighbouring elements, and sums need no shared memory and no barrier.
constexpr int kWarps = 4;

template <class T>
DEVICE void layernorm_warp(LAYERNORM_PARAMETERS(T)) {
  int lane = threadIdx.x % 32, n = blockIdx.x * kWarps + threadIdx.x / 32;
  // Either all lanes of a warp return or none: the others take part in shuffles.
  if (n >= rows) return;
  const T* row = x + row_start(n, x_pitch);
  out += row_start(n, out_pitch);
  float mu = 0.0f;
  if (residual) {
    residual += row_start(n, residual_pitch);
    sum += row_start(n, sum_pitch);
    for (int c = lane; c < width; c += 32) {
      T value = to<T>(to_float(row[c]) + to_float(residual[c]));
      sum[c] = value;
      mu += to_float(value);
    }
    // A lane only reads back what it has written itself.
    row = sum;
  } else {
    for (int c = lane; c < width; c += 32) mu += to_float(row[c]);
  }
  mu = warp_sum(mu) / width;
  float squares = 0.0f;
  for (int c = lane; c < width; c += 32) squares = fmaf(to_float(row[c]) - mu, to_float(row[c]) - mu, squares);
  float scale = 1.0f / sqrtf(warp_sum(squares) / width + eps);
  if (lane == 0) {
    mean[n] = mu;
    rstd[n] = scale;
  }
  for (int c = lane; c < width; c += 32) {
    out[c] = to<T>(fmaf((to_float(row[c]) - mu) * scale, to_float(weight[c]), to_float(bias[c])));
  }
}

KERNEL(layernorm_warp_f32, kWarps * 32, 8, LAYERNORM_PARAMETERS(float)) { layernorm_warp(LAYERNORM_ARGUMENTS); }

KERNEL(layernorm_warp_bf16, kWarps * 32, 8, LAYERNORM_PARAMETERS(bf16)) { layernorm_warp(LAYERNORM_ARGUMENTS); }

// The sum over the LANES threads of a row: a warp, or the block.
template <int LANES>
DEVICE float row_sum(float value) {
  if constexpr (LANES == 32) {
    return warp_sum(value);
  } else {
    return block_sum<LANES>(value);
  }
}

// LANES threads hold a row of at most LANES x EACH elements, which begins and ends at a multiple of 16 bytes. A warp
// holds rows of up to 1024 elements, four rows per block; each wider row has a block of its own.
template <int LANES, int EACH, class T>
DEVICE void layernorm_vector(LAYERNORM_PARAMETERS(T)) {
  constexpr int kSize = Vec<T>::kSize, kCount = EACH / kSize;
  int lane = threadIdx.x % LANES, n = LANES == 32 ? blockIdx.x * kWarps + threadIdx.x / 32 : blockIdx.x;
  if (n >= rows) return;
  x += row_start(n, x_pitch);
  Raw<T> raw[kCount];
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    int c = (k * LANES + lane) * kSize;
    raw[k] = {};
    if (c < width) raw[k] = load_raw(x + c);
  }
  Vec<T> row[kCount];
  if (residual) {
    residual += row_start(n, residual_pitch);
    sum += row_start(n, sum_pitch);
    Raw<T> other[kCount];
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      int c = (k * LANES + lane) * kSize;
      other[k] = {};
      if (c < width) other[k] = load_raw(residual + c);
    }
#pragma unroll
    for (int k = 0; k < kCount; k++) {
      int c = (k * LANES + lane) * kSize;
      const Vec<T> a = unpack(raw[k]), b = unpack(other[k]);
#pragma unroll
      for (int j = 0; j < kSize; j++) row[k].v[j] = rounded<T>(a.v[j] + b.v[j]);
      if (c < width) store(sum + c, row[k]);
    }
  } else {
#pragma unroll
    for (int k = 0; k < kCount; k++) row[k] = unpack(raw[k]);
  }

  // Elements beyond the row are zero and do not change the sum.
  float mu = 0.0f;
#pragma unroll
  for (int k = 0; k < kCount; k++) {
#pragma unroll
    for (int j = 0; j < kSize; j++) mu += row[k].v[j];
  }
  mu = row_sum<LANES>(mu) / width;
  float squares = 0.0f;
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    if ((k * LANES + lane) * kSize < width) {
#pragma unroll
      for (int j = 0; j < kSize; j++) squares = fmaf(row[k].v[j] - mu, row[k].v[j] - mu, squares);
    }
  }
  float scale = 1.0f / sqrtf(row_sum<LANES>(squares) / width + eps);
  if (lane == 0) {
    mean[n] = mu;
    rstd[n] = scale;
  }
  out += row_start(n, out_pitch);
#pragma unroll
  for (int k = 0; k < kCount; k++) {
    int c = (k * LANES + lane) * kSize;
    if (c < width) {
      const Vec<T> w = load(weight + c), b = load(bias + c);
#pragma unroll
      for (int j = 0; j < kSize; j++) row[k].v[j] = fmaf((row[k].v[j] - mu) * scale, w.v[j], b.v[j]);
      store(out + c, row[k]);
    }
  }
}

KERNEL(layernorm_vec16_512_f32, 128, 8, LAYERNORM_PARAMETERS(float)) { layernorm_vector<32, 16>(LAYERNORM_ARGUMENTS); }

KERNEL(layernorm_vec16_1024_f32, 128, 6, LAYERNORM_PARAMETERS(float)) {
  layernorm_vector<32, 32>(LAYERNORM_ARGUMENTS);
}

KERNEL(layernorm_vec16_4096_f32, 128, 6, LAYERNORM_PARAMETERS(float)) {
  layernorm_vector<128, 32>(LAYERNORM_ARGUMENTS);
}

KERNEL(layernorm_vec16_8192_f32, 256, 3, LAYERNORM_PARAMETERS(float)) {
  layernorm_vector<256, 32>(LAYERNORM_ARGUMENTS);
}

KERNEL(layernorm_vec16_512_bf16, 128, 8, LAYERNORM_PARAMETERS(bf16)) { layernorm_vector<32, 16>(LAYERNORM_ARGUMENTS); }

KERNEL(layernorm_vec16_1024_bf16, 128, 8, LAYERNORM_PARAMETERS(bf16)) {
  layernorm_vector<32, 32>(LAYERNORM_ARGUMENTS);
}

KERNEL(layernorm_vec16_4096_bf16, 128, 8, LAYERNORM_PARAMETERS(bf16)) {
  layernorm_vector<128, 32>(LAYERNORM_ARGUMENTS);
}

KERNEL(layernorm_vec16_8192_bf16, 256, 4, LAYERNORM_PARAMETERS(bf16)) {
  layernorm_vector<256, 32>(LAYERNORM_ARGUMENTS);
}
