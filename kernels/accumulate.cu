// out = x, or out += x: a second gradient for the same tensor, or a copy of one that two tensors share.
//
// x and out: [N, C] in rows, as in fill.cu.
//
// Roofline: 8 bytes per element for a copy, 12 for a sum, at most one addition: bound by memory.
#include "common/kernel.cuh"

constexpr int kThreads = 256;

KERNEL(accumulate_f32, kThreads, 8, const float* __restrict__ x, float* __restrict__ out, int width, int last,
       int x_pitch, int out_pitch, int add) {
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  out += row_start(blockIdx.x, out_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) {
    // A copy must not read what it overwrites: it may be uninitialised, and it costs a third of the bytes.
    out[c] = add ? out[c] + x[c] : x[c];
  }
}
