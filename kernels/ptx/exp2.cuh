// 2^x in one instruction (PTX ISA, ex2.approx.ftz.f32; any GPU): off by at most 2 units of the last place,
// and 0 for what is below 2^-126. exp2f keeps such results, for three instructions more.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#else

DEVICE float exp2_approx(float x) {
  const float y = exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
}

#endif
