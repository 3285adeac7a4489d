// Sums and maxima over a warp or a block, in a fixed order. Every thread must take part, and every thread receives the
// result: after the butterfly of __shfl_xor_sync all lanes have added the same numbers, in trees that mirror each
// other, and a + b is b + a bit for bit.
#pragma once

#include "kernel.cuh"

constexpr unsigned kAllLanes = 0xffffffffu;

// Over groups of LANES neighbouring lanes, a power of two.
template <int LANES = 32, class T>
DEVICE T warp_sum(T value) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

template <int LANES = 32>
DEVICE float warp_max(float value) {
#pragma unroll
  for (int distance = LANES / 2; distance > 0; distance /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// Over a one-dimensional block of THREADS threads, a multiple of 32: first within each warp, then over one number per
// warp. The first barrier makes sure that all threads have finished reading `partial` after the previous call.
template <int THREADS, class T>
DEVICE T block_sum(T value) {
  SMEM(T, partial, [32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = warp_sum(value);
  __syncthreads();
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warp_sum(lane < THREADS / 32 ? partial[lane] : T(0));
}

template <int THREADS>
DEVICE float block_max(float value) {
  SMEM(float, partial, [32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  value = warp_max(value);
  __syncthreads();
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  return warp_max(lane < THREADS / 32 ? partial[lane] : -INFINITY);
}
