// Tickets by which blocks hand their results to the block that finishes last (PTX ISA, atom.acq_rel; sm_70 and later).
//
// Draws the next number of a ticket. What this thread did or saw before (and so what its block wrote before a barrier)
// is visible to any thread that draws a later number, and after a barrier to the block of that thread. It combines
// __threadfence, atomicAdd and another __threadfence in one instruction, so that neither fence can be forgotten.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

DEVICE unsigned draw_ticket(unsigned* ticket) {
  unsigned number;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(number) : "l"(ticket) : "memory");
  return number;
}

#else

#define draw_ticket(ticket) (emu_fence(__FILE__, __LINE__), emu::add(__FILE__, __LINE__, ticket, 1u))

#endif
