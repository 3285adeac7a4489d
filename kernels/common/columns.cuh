// Sums of columns: how partial sums of rows, or the rows themselves, become one row.
#pragma once

#include "element.cuh"

// A block of 32 x 32 threads for 32 columns, of which the caller's is c (the same in a column of threads): warp w adds
// up rows w, w + 32, ..., each lane its column; the warps' sums then meet in shared memory. Threads with threadIdx.y ==
// 0 get the sum, of columns before `width`. In an order that depends on the number of rows alone.
constexpr int kColumns = 32;
constexpr int kRowLanes = 32;

template <class T>
DEVICE float tiled_column_sum(const T* __restrict__ x, int rows, int pitch, int c, int width) {
  SMEM(float, sums, [kRowLanes][kColumns]);
  float sum = 0.0f;
  if (c < width) {
    // Loads of eight rows in flight: the additions still follow each other.
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
