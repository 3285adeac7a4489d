// dx = dout f'(pre), for an activation f whose gradient is not computed in the epilogue of a matrix product
// (common/activation.cuh).
//
// dout, pre and dx: [N, C] in rows, as in fill.cu, all float or all bf16. dx may be dout itself, which is why neither
// is __restrict__: each element is read before the same thread writes it.
//
// Roofline: 12 bytes per element (6 in bf16) for about twenty operations and an exponential: memory-bound, in bf16 only
// just. An H100's memory feeds an SM 2.4 elements per cycle, at which rate 40 instructions per element would take three
// of four issue slots. `vector` leaves these slots to the arithmetic: accesses of 16 bytes, four loads in flight per
// thread, 64 KB per SM with half of its warps.
#include "common/activation.cuh"
#include "common/vector.cuh"

constexpr int kThreads = 256;

#define ACTIVATION_PARAMETERS(T) \
  const T* dout, const T* __restrict__ pre, T* dx, int width, int last, int dout_pitch, int pre_pitch, int dx_pitch, \
      int kind

template <class T>
DEVICE void activation_backward(ACTIVATION_PARAMETERS(T)) {
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  dout += row_start(blockIdx.x, dout_pitch);
  pre += row_start(blockIdx.x, pre_pitch);
  dx += row_start(blockIdx.x, dx_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) {
    dx[c] = to<T>(to_float(dout[c]) * activate(kind, to_float(pre[c])).grad);
  }
}

KERNEL(activation_backward_f32, kThreads, 4, ACTIVATION_PARAMETERS(float)) {
  activation_backward(dout, pre, dx, width, last, dout_pitch, pre_pitch, dx_pitch, kind);
}

KERNEL(activation_backward_bf16, kThreads, 4, ACTIVATION_PARAMETERS(bf16)) {
  activation_backward(dout, pre, dx, width, last, dout_pitch, pre_pitch, dx_pitch, kind);
}

// Accesses to dout and to pre that a thread issues before it waits for the first.
constexpr int kVectors = 2;

// For rows that begin and end at multiples of 16 bytes.
template <class T>
DEVICE void activation_backward_vector(ACTIVATION_PARAMETERS(T)) {
  constexpr int kEach = Vec<T>::kSize, kStride = kEach * kThreads;
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  dout += row_start(blockIdx.x, dout_pitch);
  pre += row_start(blockIdx.x, pre_pitch);
  dx += row_start(blockIdx.x, dx_pitch);
  for (int first = blockIdx.y * kVectors * kStride + threadIdx.x * kEach; first < columns;
       first += gridDim.y * kVectors * kStride) {
    Raw<T> douts[kVectors], inputs[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < columns) {
        douts[k] = load_raw(dout + c);
        inputs[k] = load_raw(pre + c);
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < columns) {
        Vec<T> d = unpack(douts[k]), z = unpack(inputs[k]);
#pragma unroll
        for (int j = 0; j < kEach; j++) d.v[j] *= activate(kind, z.v[j]).grad;
        store(dx + c, d);
      }
    }
  }
}

KERNEL(activation_backward_vec16_f32, kThreads, 4, ACTIVATION_PARAMETERS(float)) {
  activation_backward_vector(dout, pre, dx, width, last, dout_pitch, pre_pitch, dx_pitch, kind);
}

KERNEL(activation_backward_vec16_bf16, kThreads, 4, ACTIVATION_PARAMETERS(bf16)) {
  activation_backward_vector(dout, pre, dx, width, last, dout_pitch, pre_pitch, dx_pitch, kind);
}
