// 16 bytes as they lie in memory, beside common/element.cuh: a thread that wants several loads on their way at a time
// must not touch what the first has brought before it has asked for the last, so it unpacks them later. Until then a
// bf16 takes half the registers that its float does.
//
//   load_raw(p), unpack(raw)                  16 bytes: Raw<T>, to Vec<T>
//   load_raw4(p), unpack(raw), store4(p, v)   four elements, where operands of both types meet: 16 bytes, or 8
//   load_once(p), store_once(p, v)            four floats that the kernel does not read again: the first to leave the
//                                             caches, so that others stay
#pragma once

#include "element.cuh"

DEVICE float4 load_raw(const float* p) { return *reinterpret_cast<const float4*>(p); }
DEVICE uint4 load_raw(const bf16* p) { return *reinterpret_cast<const uint4*>(p); }

template <class T>
using Raw = decltype(load_raw(static_cast<const T*>(nullptr)));

DEVICE float4 load_raw4(const float* p) { return load_raw(p); }
DEVICE uint2 load_raw4(const bf16* p) { return *reinterpret_cast<const uint2*>(p); }

DEVICE Vec<float> unpack(const float4& x) { return {{x.x, x.y, x.z, x.w}}; }
DEVICE Vec<bf16> unpack(const uint4& x) {
  return {{low_half(x.x), high_half(x.x), low_half(x.y), high_half(x.y), low_half(x.z), high_half(x.z), low_half(x.w),
           high_half(x.w)}};
}
DEVICE Vec<float> unpack(const uint2& x) {
  return {{low_half(x.x), high_half(x.x), low_half(x.y), high_half(x.y)}};
}

DEVICE void store4(float* p, const Vec<float>& x) { store(p, x); }
DEVICE void store4(bf16* p, const Vec<float>& x) {
  *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]));
}

DEVICE float4 load_once(const float* p) { return __ldcs(reinterpret_cast<const float4*>(p)); }
DEVICE void store_once(float* p, const Vec<float>& x) {
  __stcs(reinterpret_cast<float4*>(p), make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
}
