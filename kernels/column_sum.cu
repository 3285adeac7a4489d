// out[c] (+)= sum over rows n of x[n, c]: the gradient of a bias.
//
// x: [N, C] in rows `pitch` apart, float or bf16; out: [C], always float. Without rows the sum is zero. Each element of
// `out` is added up in an order that depends on N and C alone: the result has the same bits every time.
//
// Roofline: 4 bytes (2 in bf16) and one addition per element of x: memory-bound, if enough loads are in flight, 16 KB
// for each of an H100's 132 SMs. `naive` and `tiled` distribute only columns over blocks, so a narrow x (C < 32 x SMs)
// leaves SMs idle. `vector` also splits the rows, into some 500 blocks in all. Each of these writes a row of partial
// sums to the workspace, and a second launch adds these up. At C = 768 in bf16 and N = 8192 there are 3 x 128 blocks of
// 256 threads with four 16-byte loads in flight, 16 KB each; the partial sums are 0.4 MB, compared to the 12.6 MB of x,
// and stay in L2.
#include "common/columns.cuh"
#include "common/vector.cuh"

#define COLUMN_SUM_PARAMETERS(T) \
  const T* __restrict__ x, float* __restrict__ out, int rows, int width, int pitch, int accumulate

// One thread per column. A warp reads 128 contiguous bytes of a row at a time, but there are only C threads to hide the
// latency of memory.
constexpr int kNaiveThreads = 128;

template <class T>
DEVICE void column_sum_naive(COLUMN_SUM_PARAMETERS(T)) {
  int c = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (c >= width) return;
  float sum = 0.0f;
  for (int n = 0; n < rows; n++) sum += to_float(x[row_start(n, pitch) + c]);
  out[c] = accumulate ? out[c] + sum : sum;
}

KERNEL(column_sum_naive_f32, kNaiveThreads, 8, COLUMN_SUM_PARAMETERS(float)) {
  column_sum_naive(x, out, rows, width, pitch, accumulate);
}

KERNEL(column_sum_naive_bf16, kNaiveThreads, 8, COLUMN_SUM_PARAMETERS(bf16)) {
  column_sum_naive(x, out, rows, width, pitch, accumulate);
}

// One block for every 32 columns, in which 32 warps share the rows.
constexpr int kTiledThreads = kColumns * kRowLanes;

template <class T>
DEVICE void column_sum_tiled(COLUMN_SUM_PARAMETERS(T)) {
  int c = blockIdx.x * kColumns + threadIdx.x;
  float total = tiled_column_sum(x, rows, pitch, c, width);
  if (threadIdx.y == 0 && c < width) out[c] = accumulate ? out[c] + total : total;
}

KERNEL(column_sum_tiled_f32, kTiledThreads, 1, COLUMN_SUM_PARAMETERS(float)) {
  column_sum_tiled(x, out, rows, width, pitch, accumulate);
}

KERNEL(column_sum_tiled_bf16, kTiledThreads, 1, COLUMN_SUM_PARAMETERS(bf16)) {
  column_sum_tiled(x, out, rows, width, pitch, accumulate);
}

// The first launch of `vector`: partials[p, c] = sum over the rows of block p (blockIdx.y), `block` neighbouring rows.
// The second launch is column_sum_tiled_f32 over the partial sums. A lane has one vector of columns, so a warp reads
// 512 contiguous bytes of a row, and the 8 warps share the rows.
constexpr int kVectorWarps = 8;
constexpr int kVectorThreads = 32 * kVectorWarps;

template <class T>
DEVICE void column_sum_vector(const T* __restrict__ x, float* __restrict__ partials, int rows, int width, int pitch,
                              int block) {
  constexpr int kEach = Vec<T>::kSize;
  SMEM(float, sums, [kVectorWarps][32 * kEach]);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * (32 * kEach), c = first + lane * kEach;
  int end = min((int)(blockIdx.y + 1) * block, rows);
  float sum[kEach] = {};
  if (c < width) {
#pragma unroll 4
    for (int n = blockIdx.y * block + warp; n < end; n += kVectorWarps) {
      const Vec<T> values = load(x + row_start(n, pitch) + c);
#pragma unroll
      for (int j = 0; j < kEach; j++) sum[j] += values.v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kEach; j++) sums[warp][lane * kEach + j] = sum[j];
  __syncthreads();
  int i = threadIdx.x;
  if (i < 32 * kEach && first + i < width) {
    float total = 0.0f;
    for (int w = 0; w < kVectorWarps; w++) total += sums[w][i];
    partials[row_start(blockIdx.y, width) + first + i] = total;
  }
}

KERNEL(column_sum_vec16_f32, kVectorThreads, 4, const float* __restrict__ x, float* __restrict__ partials, int rows,
       int width, int pitch, int block) {
  column_sum_vector(x, partials, rows, width, pitch, block);
}

KERNEL(column_sum_vec16_bf16, kVectorThreads, 4, const bf16* __restrict__ x, float* __restrict__ partials, int rows,
       int width, int pitch, int block) {
  column_sum_vector(x, partials, rows, width, pitch, block);
}
