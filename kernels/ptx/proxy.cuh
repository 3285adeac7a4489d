// What threads have written, for the copy engine and wgmma to read (PTX ISA, fence.proxy.async; sm_90).
//
// They reach shared memory by another way ("proxy") than loads and stores of threads. What this thread wrote to shared
// memory before `fence_async` can be read by tma_store and wgmma of whoever comes after the fence, by a barrier or an
// arrival. Each thread fences what it has written itself.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#else

#define fence_async() emu_fence_async(__FILE__, __LINE__)

#endif
