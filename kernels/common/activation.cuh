// Both forms of GELU, tanh, and their derivatives (src/device/ops/activation.rs).
//
// GELU, tanh form: x s(2u), where s is the logistic function and u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u)
// / 2 = s(2u). This takes one exponential and one division, and both tails come out right without a branch. GELU, erf
// form: x Phi(x), where Phi is the normal distribution function. tanh: (1 - e) / (1 + e) with e = exp(-2 |x|); its
// derivative is 4 e / (1 + e)^2.
#pragma once

#include "kernel.cuh"

enum ActivationKind { kGeluTanh = 0, kGeluErf = 1, kTanh = 2 };

constexpr float kTanhSlope = 1.595769122f;  // 2 sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

DEVICE float gelu_tanh_argument(float x) { return kTanhSlope * x * (1.0f + kTanhCubic * x * x); }

// FAST, for results that are rounded to bf16: exp and division in a few instructions. Their error is a few ulp of float
// (for exp it is relative, and grows with the magnitude of the argument, where the result hardly depends on it). The
// epilogue of a GEMM tile has 16,384 elements, where the cost of the accurate versions would show.
template <bool FAST>
DEVICE float exponential(float x) {
  return FAST ? __expf(x) : expf(x);
}

// `y` is positive. FAST: 0 for y above 2^126, which makes no difference here.
template <bool FAST>
DEVICE float quotient(float x, float y) {
  return FAST ? __fdividef(x, y) : x / y;
}

// f(x) and f'(x), which share an exponential. If only one of them is used, the compiler drops the work for the other.
struct Activated {
  float value, grad;
};

template <bool FAST = false>
DEVICE Activated gelu_tanh(float x) {
  // Clamped, so that far in the left tail e s is 1 and not infinity times zero.
  const float e = exponential<FAST>(fminf(-gelu_tanh_argument(x), 80.0f));
  const float s = quotient<FAST>(1.0f, 1.0f + e);
  const float slope = kTanhSlope * (1.0f + 3.0f * kTanhCubic * x * x);
  // e s is 1 - s without the cancellation, which x times the slope would magnify.
  return {x * s, s + x * slope * s * (e * s)};
}

DEVICE float normal_distribution(float x) { return 0.5f * (1.0f + erff(0.70710678f * x)); }

template <bool FAST = false>
DEVICE Activated gelu_erf(float x) {
  const float density = 0.39894228f * exponential<FAST>(-0.5f * x * x), s = normal_distribution(x);
  return {x * s, s + x * density};
}

template <bool FAST = false>
DEVICE Activated hyperbolic_tangent(float x) {
  const float a = fabsf(x), e = exponential<FAST>(-2.0f * a), s = quotient<FAST>(1.0f, 1.0f + e);
  // Near zero 1 - e would cancel. There it uses a series, fitted by Chebyshev interpolation, with an error below 1 ulp.
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

// `kind` is the same for all threads, so there is no divergence.
template <bool FAST = false>
DEVICE Activated activate(int kind, float x) {
  if (kind == kGeluTanh) return gelu_tanh<FAST>(x);
  return kind == kGeluErf ? gelu_erf<FAST>(x) : hyperbolic_tangent<FAST>(x);
}

// For N elements: replaces x by f(x), and multiplies `slope` by f'(x).
template <Activated (&F)(float), int N>
DEVICE void apply(float (&x)[N], float (&slope)[N]) {
#pragma unroll
  for (int e = 0; e < N; e++) {
    const Activated both = F(x[e]);
    x[e] = both.value;
    slope[e] *= both.grad;
  }
}

// Tests `kind` once for all elements, so that the code of each function is there once per element.
template <bool FAST, int N>
DEVICE void activate_all(int kind, float (&x)[N], float (&slope)[N]) {
  if (kind == kGeluTanh) {
    apply<gelu_tanh<FAST>>(x, slope);
  } else if (kind == kGeluErf) {
    apply<gelu_erf<FAST>>(x, slope);
  } else {
    apply<hyperbolic_tangent<FAST>>(x, slope);
  }
}
