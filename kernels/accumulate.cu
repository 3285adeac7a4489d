// out = x, or out += x: adds a second gradient for the same tensor, copies a gradient that two tensors share, or, where
// x and out have different types, casts.
//
// x and out: [N, C] in rows, as in fill.cu; each float or bf16. The sum is rounded once.
//
// Roofline: x is read once and out written once, and for a sum out is also read; at most one addition per element. That
// is 8 or 12 bytes per element in f32, 4 or 6 in bf16: memory-bound. To hide the latency of memory (about 600 ns at 25
// bytes per nanosecond, which is all that an H100 can give an SM), each SM needs some 16 KB in flight: 2048 threads
// with one load of 4 bytes are 8 KB. A thread of `vector` has two loads of 16 bytes in flight, or four for a sum: 64 KB
// and more.
#include "common/vector.cuh"

constexpr int kThreads = 256;

#define ACCUMULATE_PARAMETERS(X, OUT) \
  const X* __restrict__ x, OUT* __restrict__ out, int width, int last, int x_pitch, int out_pitch, int add

template <class X, class Out>
DEVICE void accumulate(ACCUMULATE_PARAMETERS(X, Out)) {
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  out += row_start(blockIdx.x, out_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) {
    float value = to_float(x[c]);
    // A copy must not read what it overwrites: that may be uninitialised, and reading it would be a third of all bytes.
    out[c] = to<Out>(add ? to_float(out[c]) + value : value);
  }
}

KERNEL(accumulate_f32, kThreads, 8, ACCUMULATE_PARAMETERS(float, float)) {
  accumulate(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_bf16, kThreads, 8, ACCUMULATE_PARAMETERS(bf16, bf16)) {
  accumulate(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_f32_bf16, kThreads, 8, ACCUMULATE_PARAMETERS(float, bf16)) {
  accumulate(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_bf16_f32, kThreads, 8, ACCUMULATE_PARAMETERS(bf16, float)) {
  accumulate(x, out, width, last, x_pitch, out_pitch, add);
}

// An access is 16 bytes where both types are the same. Where they differ it is four elements, 16 bytes of the floats
// and 8 of the bf16, so that a warp accesses a contiguous run of whole sectors.
template <class T>
DEVICE Raw<T> load_matched(const T* p, const T*) {
  return load_raw(p);
}
DEVICE float4 load_matched(const float* p, const bf16*) { return load_raw4(p); }
DEVICE uint2 load_matched(const bf16* p, const float*) { return load_raw4(p); }
DEVICE void store_matched(bf16* p, const Vec<bf16>& x) { store(p, x); }
template <class T>
DEVICE void store_matched(T* p, const Vec<float>& x) {
  store4(p, x);
}

// Accesses that a thread issues before it waits for the first.
constexpr int kVectors = 2;

// For rows that begin and end at a multiple of the access size.
template <class X, class Out>
DEVICE void accumulate_vector(ACCUMULATE_PARAMETERS(X, Out)) {
  using V = decltype(unpack(load_matched(x, out)));
  constexpr int kStride = V::kSize * kThreads;
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  out += row_start(blockIdx.x, out_pitch);
  const Out* old = out;
  for (int first = blockIdx.y * kVectors * kStride + threadIdx.x * V::kSize; first < columns;
       first += gridDim.y * kVectors * kStride) {
    decltype(load_matched(x, old)) values[kVectors];
    decltype(load_matched(old, x)) olds[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < columns) {
        values[k] = load_matched(x + c, old);
        if (add) olds[k] = load_matched(old + c, x);
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < columns) {
        V value = unpack(values[k]);
        if (add) {
          const V before = unpack(olds[k]);
#pragma unroll
          for (int j = 0; j < V::kSize; j++) value.v[j] = before.v[j] + value.v[j];
        }
        store_matched(out + c, value);
      }
    }
  }
}

KERNEL(accumulate_vec16_f32, kThreads, 4, ACCUMULATE_PARAMETERS(float, float)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_vec16_bf16, kThreads, 4, ACCUMULATE_PARAMETERS(bf16, bf16)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_vec16_f32_bf16, kThreads, 4, ACCUMULATE_PARAMETERS(float, bf16)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_vec16_bf16_f32, kThreads, 4, ACCUMULATE_PARAMETERS(bf16, float)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}
