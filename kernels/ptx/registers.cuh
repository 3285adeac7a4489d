// Moves registers from one warpgroup to another (PTX ISA, setmaxnreg; sm_90a). N is the new number of registers per
// thread, a multiple of 8 from 24 to 256. `take_registers` waits until enough are free. All warps of the warpgroup must
// execute it together.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

template <int N>
DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N>
DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

#else

template <int N>
DEVICE void give_registers() {}
template <int N>
DEVICE void take_registers() {}

#endif
