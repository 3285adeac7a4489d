// out[c] (+)= sum over rows n of x[n, c]: the gradient of a bias.
//
// x: [N, C] in rows `pitch` apart; out: [C]. Without rows the sum is zero. Each element of `out` is added up in an
// order that depends on N alone: the same bits every time.
//
// Roofline: 4 bytes and one addition per element of x: bound by memory, once there are enough loads in flight. Only
// columns are spread over blocks, so a narrow x (C < 32 x multiprocessors) leaves multiprocessors idle; more blocks
// would need a workspace for partial sums, or atomics and with them another order every time.
#include "common/kernel.cuh"

// One thread for each column. A warp reads 128 contiguous bytes of a row at a time, but there are only C threads to
// hide the latency of memory.
constexpr int kNaiveThreads = 128;

KERNEL(column_sum_naive_f32, kNaiveThreads, 8, const float* __restrict__ x, float* __restrict__ out, int rows,
       int width, int pitch, int accumulate) {
  int c = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (c >= width) return;
  float sum = 0.0f;
  for (int n = 0; n < rows; n++) sum += x[row_start(n, pitch) + c];
  out[c] = accumulate ? out[c] + sum : sum;
}

// A block for every 32 columns, in which 32 warps share the rows: warp w adds up rows w, w + 32, ..., each lane its
// column. The warps' sums then meet in shared memory.
constexpr int kColumns = 32;
constexpr int kLanes = 32;
constexpr int kTiledThreads = kColumns * kLanes;

KERNEL(column_sum_tiled_f32, kTiledThreads, 1, const float* __restrict__ x, float* __restrict__ out, int rows,
       int width, int pitch, int accumulate) {
  SMEM(float, sums, [kLanes][kColumns]);
  int c = blockIdx.x * kColumns + threadIdx.x;
  float sum = 0.0f;
  if (c < width) {
    // Loads of four rows in flight: the additions still follow each other.
#pragma unroll 4
    for (int n = threadIdx.y; n < rows; n += kLanes) sum += x[row_start(n, pitch) + c];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && c < width) {
    float total = 0.0f;
    for (int lane = 0; lane < kLanes; lane++) total += sums[lane][threadIdx.x];
    out[c] = accumulate ? out[c] + total : total;
  }
}
