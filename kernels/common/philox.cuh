// Philox4x32-10 (Salmon et al., SC 2011), and dropout masks drawn from it; word for word as in
// src/device/ops/philox.rs.
//
// A mask is never stored. Whether an element survives is a pure function of (seed, step, site, index), so the backward
// pass draws the same mask as the forward pass, on any device and in any order. About 70 integer instructions produce
// four words: where a thread has four neighbours, take them at once (`dropout_keeps4`).
#pragma once

#include "kernel.cuh"

// The layout of src/device/ops/state.rs: the host writes it before each step, and kernels read it through a pointer.
struct StepState {
  unsigned seed[2];
  unsigned step;
  float lr;
  float bias1, bias2;
  unsigned unused[2];
};

DEVICE uint4 philox(unsigned k0, unsigned k1, uint4 c) {
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const unsigned high0 = __umulhi(0xD2511F53u, c.x), low0 = 0xD2511F53u * c.x;
    const unsigned high1 = __umulhi(0xCD9E8D57u, c.z), low1 = 0xCD9E8D57u * c.z;
    c = make_uint4(high1 ^ c.y ^ k0, low1, high0 ^ c.w ^ k1, low0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// One dropout site of the model at one step.
struct Dropout {
  unsigned seed0, seed1, step, site;
  // The smallest word that is kept; 0 keeps all.
  unsigned threshold;
  // 1 / (1 - p), the factor of the elements that are kept.
  float scale;
};

// Without a state nothing is dropped. Words from p 2^32 on are kept. Scaling by a power of two is exact, and so is
// rounding up (floats beyond 2^24 are integers), which turns a comparison of reals into one of integers.
DEVICE Dropout dropout_of(const StepState* state, unsigned site, float p) {
  if (!state) return {0, 0, 0, 0, 0, 1.0f};
  const unsigned threshold = (unsigned)ceilf(p * 4294967296.0f);
  return {state->seed[0], state->seed[1], state->step, site, threshold, 1.0f / (1.0f - p)};
}

// Words 4 `block` to 4 `block` + 3.
DEVICE uint4 dropout_words(const Dropout& drop, unsigned long long block) {
  return philox(drop.seed0, drop.seed1, make_uint4((unsigned)block, (unsigned)(block >> 32), drop.site, drop.step));
}

DEVICE bool dropout_keeps(const Dropout& drop, unsigned long long index) {
  const uint4 words = dropout_words(drop, index / 4);
  const unsigned low = index & 1 ? words.y : words.x, high = index & 1 ? words.w : words.z;
  return (index & 2 ? high : low) >= drop.threshold;
}

// For the four elements from `index` on: one call of Philox where they begin a block of four, else two.
DEVICE void dropout_keeps4(const Dropout& drop, unsigned long long index, bool (&keeps)[4]) {
  uint4 a = dropout_words(drop, index / 4), b = a;
  if (index & 3) b = dropout_words(drop, index / 4 + 1);
  // Shifts eight words down by 0 to 3 positions, without a dynamic index, which would place them in local memory.
  if (index & 1) {
    a = make_uint4(a.y, a.z, a.w, b.x);
    b = make_uint4(b.y, b.z, b.w, b.w);
  }
  if (index & 2) a = make_uint4(a.z, a.w, b.x, b.y);
  keeps[0] = a.x >= drop.threshold;
  keeps[1] = a.y >= drop.threshold;
  keeps[2] = a.z >= drop.threshold;
  keeps[3] = a.w >= drop.threshold;
}
