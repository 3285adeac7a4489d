// The dialect in which kernels are written: CUDA C++ for two compilers.
//
// nvcc compiles it to device code. The host's C++ compiler compiles it to emulated kernels, against emulator/shim.h;
// these run thread by thread on a machine without a GPU, where every access can be checked. What differs between the
// two is behind these names:
//
//   KERNEL(name, threads, min_blocks, parameters...) { ... }    an extern "C" kernel for blocks of at most `threads`,
//                                                               of which `min_blocks` should fit on an SM
//   KERNEL_OF_CLUSTERS(name, blocks, threads, min_blocks, ...)  the same in clusters of 2 blocks along x (sm_90;
//                                                               ptx/cluster.cuh), of which a grid has a whole number;
//                                                               1: no clusters
//   SMEM(float, tile, [8][32]);                                 shared memory of a fixed size
//   SMEM_DYN(float, tile);                                      the dynamic shared memory of the launch
//   DEVICE float f(...) { ... }                                 a device function, always inlined
//
// Rules: no <<<>>>, no raw __shared__, no cooperative groups; assembly only in ptx/. A kernel's parameters are
// pointers, int, unsigned, float, double and `const __grid_constant__ TensorMap`, which the launch code
// (src/device/cuda/) passes in the same order. Every pointer parameter is `__restrict__` unless two may point to the
// same memory. All threads of a block must call __syncthreads from the same source line.
#pragma once

#ifdef __CUDACC__

#define KERNEL(name, threads, min_blocks, ...) \
  extern "C" __global__ void __launch_bounds__(threads, min_blocks) name(__VA_ARGS__)
#define CLUSTER_OF_1
#define CLUSTER_OF_2 __cluster_dims__(2, 1, 1)
#define KERNEL_OF_CLUSTERS(name, blocks, threads, min_blocks, ...) \
  extern "C" __global__ void CLUSTER_OF_##blocks __launch_bounds__(threads, min_blocks) name(__VA_ARGS__)
#define DEVICE static __device__ __forceinline__
// Aligned for the widest access.
#define SMEM(T, name, dims) __shared__ __align__(16) T name dims
extern __shared__ __align__(1024) unsigned char vcycle_dynamic_shared[];
#define SMEM_DYN(T, name) T* name = reinterpret_cast<T*>(vcycle_dynamic_shared)

#else

#include "../emulator/shim.h"

#endif

// The offset in elements of `row`, for rows `pitch` apart, in 64 bits: the logits of a large batch have more than 2^31
// elements.
DEVICE long long row_start(long long row, int pitch) { return row * pitch; }
