// Named barriers (PTX ISA, bar.sync): `threads` threads of a block, a multiple of 32, synchronise at barrier `id` (1 to
// 15; barrier 0 is __syncthreads).
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

DEVICE void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

#else

#define named_barrier(id, threads) emu_barrier(__FILE__, __LINE__, id, threads)

#endif
