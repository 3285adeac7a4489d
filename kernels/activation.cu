// dx = dout f'(pre), for an activation f whose gradient no matrix product computes in its epilogue
// (common/activation.cuh).
//
// dout, pre and dx: [N, C] in rows, as in fill.cu. dx may be dout itself, which is why neither is __restrict__: each
// element is read before the same thread writes it.
//
// Roofline: 12 bytes per element for about twenty operations and an exponential: bound by memory on any GPU.
#include "common/activation.cuh"
#include "common/kernel.cuh"

constexpr int kThreads = 256;

KERNEL(activation_backward_f32, kThreads, 4, const float* dout, const float* __restrict__ pre, float* dx, int width,
       int last, int dout_pitch, int pre_pitch, int dx_pitch, int kind) {
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  dout += row_start(blockIdx.x, dout_pitch);
  pre += row_start(blockIdx.x, pre_pitch);
  dx += row_start(blockIdx.x, dx_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) {
    dx[c] = dout[c] * activate_grad(kind, pre[c]);
  }
}
