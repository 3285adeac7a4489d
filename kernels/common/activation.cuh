// GELU and its derivative, in both of its forms (src/device/ops/activation.rs).
//
// tanh form: x s(2u) with the logistic function s and u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
// s(2u): one exponential and one division, and both tails come out right without a branch. erf form: x Phi(x), Phi
// the normal distribution function.
#pragma once

#include "kernel.cuh"

enum ActivationKind { kGeluTanh = 0, kGeluErf = 1 };

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

template <bool SHORT = false>
DEVICE float gelu_tanh(float x) {
  return quotient<SHORT>(x, 1.0f + exponential<SHORT>(-gelu_tanh_argument(x)));
}

template <bool SHORT = false>
DEVICE float gelu_tanh_grad(float x) {
  // Clamped, so that far in the left tail e s is 1 and not infinity times zero.
  const float e = exponential<SHORT>(fminf(-gelu_tanh_argument(x), 80.0f));
  const float s = quotient<SHORT>(1.0f, 1.0f + e);
  const float slope = kTanhSlope * (1.0f + 3.0f * kTanhCubic * x * x);
  // e s is 1 - s without the cancellation, which x times the slope would magnify.
  return s + x * slope * s * (e * s);
}

DEVICE float normal_distribution(float x) { return 0.5f * (1.0f + erff(0.70710678f * x)); }

DEVICE float gelu_erf(float x) { return x * normal_distribution(x); }

template <bool SHORT = false>
DEVICE float gelu_erf_grad(float x) {
  const float density = 0.39894228f * exponential<SHORT>(-0.5f * x * x);
  return normal_distribution(x) + x * density;
}

// `kind` is the same in all threads: no divergence.
template <bool SHORT = false>
DEVICE float activate(int kind, float x) {
  return kind == kGeluTanh ? gelu_tanh<SHORT>(x) : gelu_erf(x);
}

template <bool SHORT = false>
DEVICE float activate_grad(int kind, float x) {
  return kind == kGeluTanh ? gelu_tanh_grad<SHORT>(x) : gelu_erf_grad<SHORT>(x);
}
