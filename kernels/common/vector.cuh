// Raw loads of 16 bytes, in addition to common/element.cuh. A thread that wants several loads in flight must not use
// the result of the first before it has issued the last, so it unpacks them later. Until then a bf16 takes half the
// registers of a float.
//
//   load_raw(p), unpack(raw)                  16 bytes: Raw<T>, to Vec<T>
//   load_raw4(p), unpack(raw), store4(p, v)   four elements, where operands of both types are combined: 16 bytes, or 8
//   load_once(p), store_once(p, v)            four floats that the kernel does not access again: evicted first from the
//                                             caches, so that other data stays
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
