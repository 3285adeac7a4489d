// out = value, for tensors of any shape.
//
// Layout, here and in the other pointwise kernels: rows of `width` elements `pitch` apart, one row of blocks
// (blockIdx.y) for each (blockIdx.x). Memory between rows belongs to others. The launch code cuts tensors without gaps
// into short rows, so that a vector of billions of elements is no special case; only there is the last row shorter: it
// has `last` elements.
//
// Roofline: 4 bytes written per element and nothing computed, so the memory's write bandwidth is the bound.
// Neighbouring threads write neighbouring elements: a warp's store is one 128-byte line.
#include "common/kernel.cuh"

constexpr int kThreads = 256;

KERNEL(fill_f32, kThreads, 8, float* __restrict__ out, int width, int last, int pitch, float value) {
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  out += row_start(blockIdx.x, pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) out[c] = value;
}
