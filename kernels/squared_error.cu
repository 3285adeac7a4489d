// Mean squared error and its gradient, over the elements whose target is a number:
//
//   loss = weight (sum of (x - target)^2) / scored
//   dx = 2 weight (x - target) / scored
//
// scored is *batch_scored if given (the count of the whole batch, of which these elements are a micro-batch), else the
// number of these elements; at least 1. Where the target is NaN the gradient is 0.
//
// x, dx: [N, C] in rows of their own pitch, both float or both bf16; targets: [N, C], loss and batch_scored (or null):
// [1], always float. dx may be absent (null), or x itself, which is why neither is __restrict__: each thread reads an
// element before it overwrites it, and no other thread accesses it.
//
// There is one block, since the gradient needs `scored` first and a regression head produces one number per example of
// a batch. Sums are in double precision, in an order that depends on the shape alone.
//
// Roofline: 12 bytes per element (8 in bf16) for four operations; for the elements of a batch the launch itself takes
// longer.
#include "common/element.cuh"
#include "common/reduce.cuh"

constexpr int kThreads = 256;

#define SQUARED_ERROR_PARAMETERS(T) \
  const T* x, const float* __restrict__ targets, const float* __restrict__ batch_scored, float* __restrict__ loss, \
      T* dx, int rows, int width, int x_pitch, \
      int targets_pitch, int dx_pitch, float weight

template <class T>
DEVICE void squared_error(SQUARED_ERROR_PARAMETERS(T)) {
  const long long count = row_start(rows, width);
  double sum = 0.0, scored = 0.0;
  for (long long i = threadIdx.x; i < count; i += kThreads) {
    const int n = (int)(i / width), c = (int)(i % width);
    const float target = targets[row_start(n, targets_pitch) + c];
    if (target == target) {
      const float difference = to_float(x[row_start(n, x_pitch) + c]) - target;
      sum += (double)difference * difference;
      scored += 1.0;
    }
  }
  sum = block_sum<kThreads>(sum);
  scored = block_sum<kThreads>(scored);
  if (batch_scored) scored = *batch_scored;
  const double part = weight / (scored > 1.0 ? scored : 1.0);
  if (threadIdx.x == 0) *loss = (float)(part * sum);
  const float slope = (float)(2.0 * part);
  for (long long i = threadIdx.x; dx && i < count; i += kThreads) {
    const int n = (int)(i / width), c = (int)(i % width);
    const float target = targets[row_start(n, targets_pitch) + c];
    const float difference = to_float(x[row_start(n, x_pitch) + c]) - target;
    dx[row_start(n, dx_pitch) + c] = to<T>(target == target ? slope * difference : 0.0f);
  }
}

KERNEL(squared_error_f32, kThreads, 1, SQUARED_ERROR_PARAMETERS(float)) {
  squared_error(x, targets, batch_scored, loss, dx, rows, width, x_pitch, targets_pitch, dx_pitch, weight);
}

KERNEL(squared_error_bf16, kThreads, 1, SQUARED_ERROR_PARAMETERS(bf16)) {
  squared_error(x, targets, batch_scored, loss, dx, rows, width, x_pitch, targets_pitch, dx_pitch, weight);
}
