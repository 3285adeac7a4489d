// Column sums of rows, or of partial sums of rows.
#pragma once

#include "element.cuh"

// The column sums of 32 columns, by a block of 32 x 32 threads. c is the caller's column (the same for a column of
// threads). Warp w adds up rows w, w + 32, ..., each lane its own column; the sums of the warps are then added in
// shared memory. Threads with threadIdx.y == 0 receive the sum, for columns before `width`. The order of additions
// depends on the number of rows alone.
constexpr int kColumns = 32;
constexpr int kRowLanes = 32;

template <class T>
DEVICE float tiled_column_sum(const T* __restrict__ x, int rows, int pitch, int c, int width) {
  SMEM(float, sums, [kRowLanes][kColumns]);
  float sum = 0.0f;
  if (c < width) {
    // Eight rows are loaded at a time; the additions still follow one another.
#pragma unroll 8
    for (int n = threadIdx.y; n < rows; n += kRowLanes) sum += to_float(x[row_start(n, pitch) + c]);
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  float total = 0.0f;
  if (threadIdx.y == 0) {
    for (int lane = 0; lane < kRowLanes; lane++) total += sums[lane][threadIdx.x];
  }
  return total;
}
