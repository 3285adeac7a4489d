// Stages a warpgroup's sums, in the layout of wgmma (ptx/wgmma.cuh), in f32 in a box of 64 rows x 32 columns in shared
// memory, from where TMA can store or add them ("swizzle 128B", ptx/tma.cuh).
#pragma once

#include "kernel.cuh"

// z[c][2 h + e] is the sum of row 16 w + 8 h + g and column 8 c + 2 (lane % 4) + e. Rows 2 i and 2 i + 1 have the same
// eight columns in the same banks, with their two 16-byte chunks swapped. So odd rows write their columns in a
// different order, and half a warp, which is four rows, writes to every bank once.
DEVICE void stage_floats(unsigned char* slot, const float (&z)[4][4]) {
  const int lane = threadIdx.x % 32, line = threadIdx.x % 128 / 32 * 16 + lane / 4, odd = lane / 4 % 2;
#pragma unroll
  for (int c = 0; c < 4; c++) {
    const int chunk = 2 * (odd ? c ^ 2 : c) + lane % 4 / 2;
    unsigned char* to = slot + line * 128 + (chunk ^ line % 8) * 16 + lane % 2 * 8;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      *reinterpret_cast<float2*>(to + h * (8 * 128)) =
          odd ? make_float2(z[c ^ 2][2 * h], z[c ^ 2][2 * h + 1]) : make_float2(z[c][2 * h], z[c][2 * h + 1]);
    }
  }
}
