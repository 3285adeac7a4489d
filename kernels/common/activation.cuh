// GELU in both of its forms, tanh, and their derivatives (src/device/ops/activation.rs).
//
// tanh form: x s(2u) with the logistic function s and u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
// s(2u): one exponential and one division, and both tails come out right without a branch. erf form: x Phi(x), Phi
// the normal distribution function. tanh: (1 - e) / (1 + e) with e = exp(-2 |x|), its derivative 4 e / (1 + e)^2.
#pragma once

#include "kernel.cuh"

enum ActivationKind { kGeluTanh = 0, kGeluErf = 1, kTanh = 2 };

constexpr float kTanhSlope = 1.595769122f;  // 2 sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

DEVICE float gelu_tanh_argument(float x) { return kTanhSlope * x * (1.0f + kTanhCubic * x * x); }

// For a result that is rounded to bf16, SHORT: exp and division in a few instructions, which are off by some units of
// float (of exp: relative to it, and more of them the larger its argument, where the result hardly depends on it). A
// tile of a product has an epilogue of 16,384 elements, beside which the usual ones would show.
template <bool SHORT>
DEVICE float exponential(float x) {
  return SHORT ? __expf(x) : expf(x);
}

// `y` is positive. SHORT: 0 beyond 2^126, which is as good here.
template <bool SHORT>
DEVICE float quotient(float x, float y) {
  return SHORT ? __fdividef(x, y) : x / y;
}

// f(x) and f'(x), which share their exponential: who wants one gets only what that takes.
struct Activated {
  float value, grad;
};

template <bool SHORT = false>
DEVICE Activated gelu_tanh(float x) {
  // Clamped, so that far in the left tail e s is 1 and not infinity times zero.
  const float e = exponential<SHORT>(fminf(-gelu_tanh_argument(x), 80.0f));
  const float s = quotient<SHORT>(1.0f, 1.0f + e);
  const float slope = kTanhSlope * (1.0f + 3.0f * kTanhCubic * x * x);
  // e s is 1 - s without the cancellation, which x times the slope would magnify.
  return {x * s, s + x * slope * s * (e * s)};
}

DEVICE float normal_distribution(float x) { return 0.5f * (1.0f + erff(0.70710678f * x)); }

template <bool SHORT = false>
DEVICE Activated gelu_erf(float x) {
  const float density = 0.39894228f * exponential<SHORT>(-0.5f * x * x), s = normal_distribution(x);
  return {x * s, s + x * density};
}

template <bool SHORT = false>
DEVICE Activated hyperbolic_tangent(float x) {
  const float a = fabsf(x), e = exponential<SHORT>(-2.0f * a), s = quotient<SHORT>(1.0f, 1.0f + e);
  // Near zero 1 - e would cancel: a series there, fitted by Chebyshev interpolation, off by less than a unit.
  const float square = a * a;
  float series = 2.292745e-3f;
  series = series * square - 8.343945e-3f;
  series = series * square + 2.1768918e-2f;
  series = series * square - 5.3959258e-2f;
  series = series * square + 1.3333304e-1f;
  series = series * square - 3.333333e-1f;
  const float value = a < 0.625f ? a + a * (square * series) : (1.0f - e) * s;
  return {copysignf(value, x), 4.0f * e * s * s};
}

// `kind` is the same in all threads: no divergence.
template <bool SHORT = false>
DEVICE Activated activate(int kind, float x) {
  if (kind == kGeluTanh) return gelu_tanh<SHORT>(x);
  return kind == kGeluErf ? gelu_erf<SHORT>(x) : hyperbolic_tangent<SHORT>(x);
}

// Of several: x becomes f(x), and `slope` is multiplied by f'(x).
template <Activated (&F)(float), int N>
DEVICE void apply(float (&x)[N], float (&slope)[N]) {
#pragma unroll
  for (int e = 0; e < N; e++) {
    const Activated both = F(x[e]);
    x[e] = both.value;
    slope[e] *= both.grad;
  }
}

// One test of `kind` for all, and the code of each function once for each element.
template <bool SHORT, int N>
DEVICE void activate_all(int kind, float (&x)[N], float (&slope)[N]) {
  if (kind == kGeluTanh) {
    apply<gelu_tanh<SHORT>>(x, slope);
  } else if (kind == kGeluErf) {
    apply<gelu_erf<SHORT>>(x, slope);
  } else {
    apply<hyperbolic_tangent<SHORT>>(x, slope);
  }
}
