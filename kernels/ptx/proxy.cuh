// Makes what threads have written visible to TMA and wgmma (PTX ISA, fence.proxy.async; sm_90).
//
// TMA and wgmma access shared memory through the async proxy, not through the generic proxy of ordinary loads and
// stores. After `fence_async`, what this thread wrote to shared memory before the fence can be read by a tma_store or
// wgmma that is ordered after the fence by a barrier or an arrival. Each thread must fence its own writes.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#else

#define fence_async() emu_fence_async(__FILE__, __LINE__)

#endif
