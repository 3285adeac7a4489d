// norm = sqrt(sum of squares of x), of the whole gradient, for clipping.
//
// x: n contiguous elements, divided into pieces of `piece` elements, in the same way on every GPU; the last piece has
// `last`. One block sums each piece and writes the sum to partials[p]; a second launch of one block adds these in
// double precision. So the order of additions, and with it the result, is the same every time, and n may be billions.
//
// Roofline: 4 bytes and one multiply-add per element of x: memory-bound. The second launch reads n / 4096 bytes.
#include "common/reduce.cuh"

constexpr int kThreads = 256;

KERNEL(global_norm_partials_f32, kThreads, 8, const float* __restrict__ x, float* __restrict__ partials, int piece,
       int last) {
  int n = blockIdx.x + 1 < gridDim.x ? piece : last;
  x += row_start(blockIdx.x, piece);
  float sum = 0.0f;
  // Eight loads in flight; the multiply-adds follow one another.
#pragma unroll 8
  for (int i = threadIdx.x; i < n; i += kThreads) sum = fmaf(x[i], x[i], sum);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

constexpr int kFinishThreads = 1024;

KERNEL(global_norm_finish_f32, kFinishThreads, 1, const float* __restrict__ partials, float* __restrict__ norm,
       int count) {
  double sum = 0.0;
  for (int p = threadIdx.x; p < count; p += kFinishThreads) sum += partials[p];
  sum = block_sum<kFinishThreads>(sum);
  if (threadIdx.x == 0) *norm = (float)sqrt(sum);
}
