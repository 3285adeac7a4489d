// Attention in bf16 by Hopper's warpgroups (sm_90a), of at most 256 keys. The formula and the operands are those of attention.cu;
// sums are in f32, and lse is.
//
// Roofline. Of a head with T queries and keys 4 D T^2 FLOPs are made of 8 D T bytes: T / 2 a byte, where an H100 makes 295 in the time
// of one. At T = 128 and 256 all that matters is that copies never stop. At D = 64 a multiprocessor's tensor cores take a
// sixteenth of a clock for a score, and as long for its exponential: where operands still lie in the second-level cache, these are
// next.
//
//   resident  A block takes one head after another, and of a head 128 queries after others, 64 for each of two warpgroups. Keys and
//             values of the head lie in shared memory whole, brought once for all of its queries. All scores of a warpgroup's queries
//             lie in its registers: a softmax is made once, and no sum is ever shrunk. Packed, they are the left operand
//             of the second product. Outputs take the place of their queries, from where the copy engine writes them.
//
// Copies run ahead as far as 192 KiB of shared memory let them: 64 KiB for queries, 128 KiB for a ring through which parts of 128
// keys pass, those of a head's keys and then those of its values. It has room for 4 heads of 128 keys, or for 2 of 256; at D > 64 for
// half as many.
//
// At most 128 keys are one part, in kernels that do half of the work, and more are two: the first part's products with values are
// made beside the second part's exponentials. Two parts also are what ptxas keeps in registers: of one of 256 keys it keeps scores
// beside the weights that they become. At D > 64 there is no room for the first part's weights beside the second's, with sums twice as
// wide: its products end before, and only the other warpgroup's run beside the exponentials.
//
// What a pair needs besides (causal, key mask, the ragged end) is done only for those 32 keys of which some pair does not count. The
// sum of a row's exponentials is of f32, its product with V of exponentials rounded to bf16; dropout multiplies by 1 / (1 - p)
// at the end, in f32.
#include "common/softmax_sm90.cuh"

// Bytes of shared memory for queries, and for keys and values.
constexpr int kForQueries = 64 * 1024, kForKeys = 128 * 1024;

constexpr int kPart = 128;  // Keys of a part.

// Number `t` of the heads of all batches, from its first query on.
DEVICE Work head_at(int t, int heads) { return {0, t % heads, t / heads, t}; }

// Hides pairs of queries `mine` to `mine` + 15 that do not count; `counting`: keys that do for some query.
template <int PARTS>
DEVICE void hide_parts(float (&s)[PARTS][kPart / 2], const unsigned (&counting)[PARTS][kPart / 32], const Pairs& pairs,
                       int mine) {
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
#pragma unroll
    for (int h = 0; h < kPart / 32; h++) {
      const int start = part * kPart + 32 * h;
      const bool all = counting[part][h] == kAllLanes && start + 31 <= mine + pairs.ahead;
      if (!all) hide_32<kPart>(s[part], h, counting[part][h], pairs, mine, start, -INFINITY);
    }
  }
}

template <int WIDTH, int PARTS>
DEVICE void attention_resident(const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& out,
                               float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads, int batches) {
  constexpr int kQueries = tile_bytes<WIDTH>(kHalf);  // Bytes of a warpgroup's.
  constexpr int kPlaces = kForQueries / (2 * kQueries), kStages = kForKeys / tile_bytes<WIDTH>(kPart);
  constexpr bool kApart = PARTS > 1 && WIDTH > 64;    // Products of a part end before the next part's weights are made.
  SMEM_DYN(unsigned char, tiles);
  Places places;
  Ring<WIDTH, kPart, kStages> ring;
  open_block<kPlaces>(places, ring, tiles + kForQueries);
  Turn place = {0, 0};
  const int count = heads * batches, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
#pragma unroll 1
    for (int t = blockIdx.x; t < count; t += gridDim.x) {
      Work work = head_at(t, heads);
      // In the order in which they are wanted.
#pragma unroll 1
      for (int part = 0; part < PARTS; part++) send(ring, k, part * kPart, work);
#pragma unroll 1
      for (; work.first < tq; work.first += kOwned) {
        send_queries<WIDTH>(tiles, q, places, place, work);
        advance<kPlaces>(place, 1);
#pragma unroll 1
        for (int part = 0; part < PARTS && work.first == 0; part++) send(ring, v, part * kPart, work);
      }
    }
    return;
  }

  take_registers<232>();
  const Dropout drop = dropout_of(state, site, p);
  const float unit = scale * kLog2E;
#pragma unroll 1
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    Work work = head_at(t, heads);
    const Pairs pairs = pairs_of_work(work, key_mask, mask_pitch, drop, causal, tq, tk);
    unsigned counting[PARTS][kPart / 32];
    int keys[PARTS], values[PARTS] = {};
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
      for (int h = 0; h < kPart / 32; h++) counting[part][h] = counting_keys(pairs, part * kPart + 32 * h);
      keys[part] = receive(ring);
    }
#pragma unroll 1
    for (; work.first < tq; work.first += kOwned, advance<kPlaces>(place, 1)) {
      const bool last = work.first + kOwned >= tq;
      const int first = work.first + group * kHalf, mine = first + threadIdx.x % 128 / 32 * 16;
      unsigned char* queries = tiles + (2 * place.stage + group) * kQueries;
      float s[PARTS][kPart / 2], sum[WIDTH / 2];
      mbarrier_wait(places.there + place.stage, place.parity);
#pragma unroll
      for (int part = 0; part < PARTS; part++) wgmma_begin(s[part]);
      wgmma_fence();
#pragma unroll
      for (int part = 0; part < PARTS; part++) multiply_rows<WIDTH, kPart>(s[part], queries, tile_of(ring, keys[part]));
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
        wgmma_hold(s[part]);
        if (last) release(ring, keys[part]);
      }

      hide_parts<PARTS>(s, counting, pairs, mine);
      float high[2], total[2] = {0.0f, 0.0f};
#pragma unroll
      for (int r = 0; r < 2; r++) {
        high[r] = -INFINITY;
#pragma unroll
        for (int part = 0; part < PARTS; part++) high[r] = fmaxf(high[r], highest<kPart>(s[part], r));
        high[r] = warp_max<4>(high[r]) * unit;
      }
      unsigned weights[PARTS][kPart / 16][4];
      const auto multiplied = [&](int part) {
        wgmma_hold(sum);
        wgmma_hold(weights[part]);
        if (last) release(ring, values[part]);
      };
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int r = 0; r < 2; r++) total[r] = exponentials<kPart>(s[part], r, unit, finite(high[r]), total[r]);
        if (drop.threshold) drop_scores<kPart>(s[part], pairs, mine, part * kPart);
        pack_weights<kPart>(weights[part], s[part]);
        if (work.first == 0) values[part] = receive(ring);
        if (part == 0) wgmma_begin(sum);
        wgmma_hold(weights[part]);
        wgmma_fence();
        add_products<WIDTH, kPart>(sum, weights[part], tile_of(ring, values[part]), part > 0);
        wgmma_commit();
        if constexpr (kApart) {
          wgmma_wait<0>();
          multiplied(part);
        }
      }
      float scales[2];
      end_softmax(scales, high, total, pairs, mine, lse);
      // All of the warpgroup is done with its queries.
      named_barrier(1 + group, 128);
      if constexpr (!kApart) {
        wgmma_wait<0>();
#pragma unroll
        for (int part = 0; part < PARTS; part++) multiplied(part);
      }
      put_rows<WIDTH>(queries, sum, scales);
      give_back(places.done + place.stage, 1 + group, [&] { store_rows<WIDTH>(out, queries, first, work); });
    }
  }
}

#define ATTENTION(width, keys)                                                                                          \
  KERNEL(attention_resident_##width##_##keys##_bf16, 384, 1, const __grid_constant__ TensorMap q,                       \
         const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,                                      \
         const __grid_constant__ TensorMap out, float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads,       \
         int batches) {                                                                                                 \
    attention_resident<width, keys / kPart>(q, k, v, out, lse, PAIR_ARGUMENTS, scale, heads, batches);                  \
  }

ATTENTION(64, 128)
ATTENTION(64, 256)
ATTENTION(128, 128)
ATTENTION(128, 256)
