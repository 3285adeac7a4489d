// The two element types that kernels read and write: float and bf16 (8 bits of exponent, as float has, and 8 bits of
// precision). All arithmetic is in float; a bf16 is rounded to nearest even when it is written.
//
//   to_float(x), to<bf16>(y)                            one element
//   load(p), store(p, v)                                16 bytes, 4 floats or 8 bf16, as floats: Vec<T>
#pragma once

#include "../ptx/convert.cuh"
#include "kernel.cuh"

struct bf16 {
  unsigned short bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// The halves of a pair.
DEVICE float low_half(unsigned pair) { return __uint_as_float(pair << 16); }
DEVICE float high_half(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

// Converts x to an element.
template <class T>
DEVICE T to(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return x;
  } else {
    return {(unsigned short)pack_bf16(x, 0.0f)};
  }
}

// The value of x after it has been written as T and read again.
template <class T>
DEVICE float rounded(float x) {
  return to_float(to<T>(x));
}

// As many elements as fit in 16 bytes.
template <class T>
struct Vec {
  static constexpr int kSize = 16 / sizeof(T);
  float v[kSize];
};

DEVICE Vec<float> load(const float* p) {
  const float4 x = *reinterpret_cast<const float4*>(p);
  return {{x.x, x.y, x.z, x.w}};
}
DEVICE Vec<bf16> load(const bf16* p) {
  const uint4 x = *reinterpret_cast<const uint4*>(p);
  return {{low_half(x.x), high_half(x.x), low_half(x.y), high_half(x.y), low_half(x.z), high_half(x.z), low_half(x.w),
           high_half(x.w)}};
}

DEVICE void store(float* p, const Vec<float>& x) {
  *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
}
DEVICE void store(bf16* p, const Vec<bf16>& x) {
  *reinterpret_cast<uint4*>(p) = make_uint4(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]),
                                            pack_bf16(x.v[4], x.v[5]), pack_bf16(x.v[6], x.v[7]));
}
