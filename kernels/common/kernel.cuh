// What every kernel is written in: CUDA C++ for two compilers.
//
// nvcc makes device code of it. The host's C++ compiler makes the emulated kernels of it, against emulator/shim.h, which run
// thread for thread on a machine without a GPU and are checked access by access. What both must see alike goes through the
// names here:
//
//   KERNEL(name, threads, min_blocks, parameters...) { ... }    an extern "C" kernel for blocks of at most `threads`, of which
//                                                               `min_blocks` should fit a multiprocessor
//   KERNEL_OF_CLUSTERS(name, blocks, threads, min_blocks, ...)  the same in clusters of 2 blocks along x (sm_90), of which
//                                                               grids have a whole number: ptx/cluster.cuh; or 1, none
//   SMEM(float, tile, [8][32]);                                 shared memory of a fixed size
//   SMEM_DYN(float, tile);                                      the shared memory that the launch asks for
//   DEVICE float f(...) { ... }                                 a function for kernels
//
// Rules: no <<<>>>, no raw __shared__, no cooperative groups; assembly only in ptx/; a kernel's parameters are pointers, int,
// unsigned, float, double and `const __grid_constant__ TensorMap`, which the launch code (src/device/cuda/) pushes in the same
// order. Every pointer parameter is `__restrict__` unless two may be the same. Barriers are called by all threads of a block
// from one line.
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

// Elements before `row` in rows `pitch` apart, in 64 bits: logits of a large batch have more than 2^31 elements.
DEVICE long long row_start(long long row, int pitch) { return row * pitch; }
