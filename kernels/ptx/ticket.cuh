// Tickets by which blocks hand their results to the one that comes last (PTX ISA, atom.acq_rel; sm_70 and later).
//
// The next number of a ticket. What this thread did or saw before (so what its block wrote before a barrier) is visible
// to whoever draws a later number, and to the block of that thread after a barrier. It is __threadfence, atomicAdd and
// another __threadfence in one, and says that neither is to be left out.
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
