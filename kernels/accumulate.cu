// out = x, or out += x: a second gradient for the same tensor, a copy of one that two tensors share, or, where x and
// out are of two types, a cast.
//
// x and out: [N, C] in rows, as in fill.cu; each float or bf16. The sum is rounded once.
//
// Roofline: x and out move once, out twice for a sum, for at most one addition: 8 or 12 bytes per element in f32, 4 or
// 6 in bf16: bound by memory. To cover its latency (about 600 ns at 25 bytes a nanosecond: an H100 gives a
// multiprocessor no more) some 16 KB must be on their way to each: 2048 threads with one load of 4 bytes are 8 KB. A
// thread of `vector` has two loads of 16 bytes in flight, or four for a sum: 64 KB and more.
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
    // A copy must not read what it overwrites: it may be uninitialised, and it costs a third of the bytes.
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

// Elements of one access: 16 bytes of either; of two types four elements, 16 bytes of the floats and 8 of the others,
// so that a warp's access is one run of whole sectors.
template <class T>
DEVICE Raw<T> load_beside(const T* p, const T*) {
  return load_raw(p);
}
DEVICE float4 load_beside(const float* p, const bf16*) { return load_raw4(p); }
DEVICE uint2 load_beside(const bf16* p, const float*) { return load_raw4(p); }
DEVICE void store_beside(bf16* p, const Vec<bf16>& x) { store(p, x); }
template <class T>
DEVICE void store_beside(T* p, const Vec<float>& x) {
  store4(p, x);
}

// Accesses of a thread before the first is waited for.
constexpr int kVectors = 2;

// Rows that begin and end at whole accesses.
template <class X, class Out>
DEVICE void accumulate_vector(ACCUMULATE_PARAMETERS(X, Out)) {
  using V = decltype(unpack(load_beside(x, out)));
  constexpr int kStride = V::kSize * kThreads;
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  out += row_start(blockIdx.x, out_pitch);
  const Out* old = out;
  for (int first = blockIdx.y * kVectors * kStride + threadIdx.x * V::kSize; first < columns;
       first += gridDim.y * kVectors * kStride) {
    decltype(load_beside(x, old)) values[kVectors];
    decltype(load_beside(old, x)) olds[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < columns) {
        values[k] = load_beside(x + c, old);
        if (add) olds[k] = load_beside(old + c, x);
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
        store_beside(out + c, value);
      }
    }
  }
}

KERNEL(accumulate_vector_f32, kThreads, 4, ACCUMULATE_PARAMETERS(float, float)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_vector_bf16, kThreads, 4, ACCUMULATE_PARAMETERS(bf16, bf16)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_vector_f32_bf16, kThreads, 4, ACCUMULATE_PARAMETERS(float, bf16)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}

KERNEL(accumulate_vector_bf16_f32, kThreads, 4, ACCUMULATE_PARAMETERS(bf16, float)) {
  accumulate_vector(x, out, width, last, x_pitch, out_pitch, add);
}
