// Converts two floats to a pair of bf16, rounded to nearest even, in one instruction (PTX ISA, cvt.rn.bf16x2.f32; sm_80
// and later).
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

// `low` becomes the low half of the pair, which is the first of two neighbours in memory.
DEVICE unsigned pack_bf16(float low, float high) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

#else

namespace emu {

// Any NaN becomes the canonical NaN that the hardware produces.
DEVICE unsigned round_bf16(float x) {
  const uint32_t word = bits<uint32_t>(x);
  if ((word & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (word + 0x7fffu + (word >> 16 & 1)) >> 16;
}

}  // namespace emu

DEVICE unsigned pack_bf16(float low, float high) { return emu::round_bf16(low) | emu::round_bf16(high) << 16; }

#endif
