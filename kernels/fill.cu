// out = value, for tensors of any shape.
//
// Layout, here and in the other pointwise kernels: rows of `width` elements, `pitch` apart, with a row of blocks
// (blockIdx.y) for each row (blockIdx.x). The memory between rows belongs to other tensors. The launch code cuts
// tensors without gaps into short rows, so that a vector of billions of elements is no special case; only then can the
// last row be shorter: it has `last` elements.
//
// Roofline: 4 bytes written per element (2 for bf16) and nothing computed, so the bound is the write bandwidth of
// memory. Neighbouring threads write neighbouring elements: a warp's store is one 128-byte line. `vector` stores 16
// bytes at a time, with a quarter of the instructions (an eighth for bf16), so one warp in four keeps memory equally
// busy.
#include "common/element.cuh"

constexpr int kThreads = 256;

template <class T>
DEVICE void fill(T* out, int width, int last, int pitch, float value) {
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  out += row_start(blockIdx.x, pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) out[c] = to<T>(value);
}

KERNEL(fill_f32, kThreads, 8, float* __restrict__ out, int width, int last, int pitch, float value) {
  fill(out, width, last, pitch, value);
}

KERNEL(fill_bf16, kThreads, 8, bf16* __restrict__ out, int width, int last, int pitch, float value) {
  fill(out, width, last, pitch, value);
}

// For rows that begin and end at multiples of 16 bytes.
template <class T>
DEVICE void fill_vector(T* out, int width, int last, int pitch, float value) {
  constexpr int kEach = Vec<T>::kSize;
  Vec<T> values;
#pragma unroll
  for (int j = 0; j < kEach; j++) values.v[j] = value;
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  out += row_start(blockIdx.x, pitch);
#pragma unroll 4
  for (int c = (blockIdx.y * kThreads + threadIdx.x) * kEach; c < columns; c += gridDim.y * kThreads * kEach) {
    store(out + c, values);
  }
}

KERNEL(fill_vec16_f32, kThreads, 8, float* __restrict__ out, int width, int last, int pitch, float value) {
  fill_vector(out, width, last, pitch, value);
}

KERNEL(fill_vec16_bf16, kThreads, 8, bf16* __restrict__ out, int width, int last, int pitch, float value) {
  fill_vector(out, width, last, pitch, value);
}
