// 2^x in one instruction (PTX ISA, ex2.approx.ftz.f32; any GPU), with an error of at most 2 ulp. Results below 2^-126
// are flushed to 0; exp2f keeps these subnormals, for three more instructions.
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
