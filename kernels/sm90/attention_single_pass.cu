// Attention in bf16 by Hopper's warpgroups (sm_90a), for at most 256 keys. The formula and the operands are those of
// attention.cu; sums and lse are in f32.
//
// Roofline. A head with T queries and keys needs 4 D T^2 FLOPs on 8 D T bytes: T / 2 FLOPs per byte, where an H100
// balances at 295. So at T = 128 and 256 all that matters is that loads never stop. At D = 64 an SM's tensor cores take
// a sixteenth of a clock per score, and its exponential as long; where operands are still in L2, these are the next
// bound.
//
//   resident  A persistent block takes one head after another, and 128 queries of a head at a time, 64 for each of two
//             warpgroups. All keys and values of the head are in shared memory, loaded once for all of its queries. All
//             scores of a warpgroup's queries are in its registers: the softmax is computed once, and no sum is ever
//             rescaled. Packed, the weights are the left operand of the second product. Outputs replace their queries
//             in shared memory, from where TMA stores them.
//
// Loads run ahead as far as 192 KiB of shared memory allow: 64 KiB for queries, and 128 KiB for a ring of parts of 128
// keys; a head sends the parts of its keys and then those of its values through the ring. The ring holds 4 heads of 128
// keys, or 2 of 256; half as many at D > 64.
//
// Up to 128 keys are one part, in kernels that do half of the work; more keys are two parts. With two, the first part's
// product with the values overlaps with the second part's exponentials. Two parts are also what ptxas can keep in
// registers: with one part of 256 keys it keeps the scores in addition to the weights that they become. At D > 64,
// where the sums are twice as wide, there are no registers for the first part's weights in addition to the second's:
// its product completes first, and only the other warpgroup's products overlap with the exponentials.
//
// Masks (causal, key mask, the end of the sequence) are applied only to groups of 32 keys in which some pair is masked.
// The sum of a row's exponentials is of f32 values, their product with V of exponentials rounded to bf16. Dropout
// multiplies by 1 / (1 - p) at the end, in f32.
#include "common/softmax_sm90.cuh"

// Bytes of shared memory for queries, and for keys and values.
constexpr int kForQueries = 64 * 1024, kForKeys = 128 * 1024;

constexpr int kPart = 128;  // Keys of a part.

// Head number `t` among the heads of all batches, from its first query on.
DEVICE WorkTile head_tile(int t, int heads) { return {0, t % heads, t / heads, t}; }

// Masks pairs of the 16 queries from `warp_row` on. `valid`: the valid keys.
template <int PARTS>
DEVICE void mask_parts(float (&s)[PARTS][kPart / 2], const unsigned (&valid)[PARTS][kPart / 32], const Pairs& pairs,
                       int warp_row) {
#pragma unroll
  for (int part = 0; part < PARTS; part++) {
#pragma unroll
    for (int h = 0; h < kPart / 32; h++) {
      const int start = part * kPart + 32 * h;
      const bool all = valid[part][h] == kAllLanes && start + 31 <= warp_row + pairs.ahead;
      if (!all) mask_32<kPart>(s[part], h, valid[part][h], pairs, warp_row, start, -INFINITY);
    }
  }
}

template <int WIDTH, int PARTS>
DEVICE void attention_resident(const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& out,
                               float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads, int batches) {
  constexpr int kQueryBytes = tile_bytes<WIDTH>(kGroupRows);  // Bytes of a warpgroup's queries.
  constexpr int kSlots = kForQueries / (2 * kQueryBytes), kStages = kForKeys / tile_bytes<WIDTH>(kPart);
  constexpr bool kSequential = PARTS > 1 && WIDTH > 64;  // A part's product ends before the next part's weights.
  SMEM_DYN(unsigned char, tiles);
  Slots slots;
  Ring<WIDTH, kPart, kStages> ring;
  init_pipeline<kSlots>(slots, ring, tiles + kForQueries);
  PipelineState slot = {0, 0};
  const int count = heads * batches, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
#pragma unroll 1
    for (int t = blockIdx.x; t < count; t += gridDim.x) {
      WorkTile work = head_tile(t, heads);
      // In the order in which the consumers need them.
#pragma unroll 1
      for (int part = 0; part < PARTS; part++) produce(ring, k, part * kPart, work);
#pragma unroll 1
      for (; work.first < tq; work.first += kTileRows) {
        produce_queries<WIDTH>(tiles, q, slots, slot, work);
        advance<kSlots>(slot, 1);
#pragma unroll 1
        for (int part = 0; part < PARTS && work.first == 0; part++) produce(ring, v, part * kPart, work);
      }
    }
    return;
  }

  take_registers<232>();
  const Dropout drop = dropout_of(state, site, p);
  const float scale_log2 = scale * kLog2E;
#pragma unroll 1
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    WorkTile work = head_tile(t, heads);
    const Pairs pairs = pairs_of_tile(work, key_mask, mask_pitch, drop, causal, tq, tk);
    unsigned valid[PARTS][kPart / 32];
    int keys[PARTS], values[PARTS] = {};
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
#pragma unroll
      for (int h = 0; h < kPart / 32; h++) valid[part][h] = valid_keys(pairs, part * kPart + 32 * h);
      keys[part] = consumer_wait(ring);
    }
#pragma unroll 1
    for (; work.first < tq; work.first += kTileRows, advance<kSlots>(slot, 1)) {
      const bool last = work.first + kTileRows >= tq;
      const int first = work.first + group * kGroupRows, warp_row = first + threadIdx.x % 128 / 32 * 16;
      unsigned char* queries = tiles + (2 * slot.stage + group) * kQueryBytes;
      float s[PARTS][kPart / 2], sum[WIDTH / 2];
      mbarrier_wait(slots.loaded + slot.stage, slot.parity);
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
        if (last) consumer_release(ring, keys[part]);
      }

      mask_parts<PARTS>(s, valid, pairs, warp_row);
      float row_max[2], row_sum[2] = {0.0f, 0.0f};
#pragma unroll
      for (int r = 0; r < 2; r++) {
        row_max[r] = -INFINITY;
#pragma unroll
        for (int part = 0; part < PARTS; part++) row_max[r] = fmaxf(row_max[r], lane_max<kPart>(s[part], r));
        row_max[r] = warp_max<4>(row_max[r]) * scale_log2;
      }
      unsigned weights[PARTS][kPart / 16][4];
      const auto finish_part = [&](int part) {
        wgmma_hold(sum);
        wgmma_hold(weights[part]);
        if (last) consumer_release(ring, values[part]);
      };
#pragma unroll
      for (int part = 0; part < PARTS; part++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
          row_sum[r] = exponentials<kPart>(s[part], r, scale_log2, finite(row_max[r]), row_sum[r]);
        }
        if (drop.threshold) drop_scores<kPart>(s[part], pairs, warp_row, part * kPart);
        pack_weights<kPart>(weights[part], s[part]);
        if (work.first == 0) values[part] = consumer_wait(ring);
        if (part == 0) wgmma_begin(sum);
        wgmma_hold(weights[part]);
        wgmma_fence();
        add_products<WIDTH, kPart>(sum, weights[part], tile_of(ring, values[part]), part > 0);
        wgmma_commit();
        if constexpr (kSequential) {
          wgmma_wait<0>();
          finish_part(part);
        }
      }
      float scales[2];
      finish_softmax(scales, row_max, row_sum, pairs, warp_row, lse);
      // The whole warpgroup has finished reading its queries.
      named_barrier(1 + group, 128);
      if constexpr (!kSequential) {
        wgmma_wait<0>();
#pragma unroll
        for (int part = 0; part < PARTS; part++) finish_part(part);
      }
      stage_rows<WIDTH>(queries, sum, scales);
      store_and_release(slots.released + slot.stage, 1 + group, [&] { store_rows<WIDTH>(out, queries, first, work); });
    }
  }
}

#define ATTENTION(width, keys)                                                                                         \
  KERNEL(attention_single_pass_kv_##width##_##keys##_bf16, 384, 1, const __grid_constant__ TensorMap q,                      \
         const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,                                     \
         const __grid_constant__ TensorMap out, float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads,      \
         int batches) {                                                                                                \
    attention_resident<width, keys / kPart>(q, k, v, out, lse, PAIR_ARGUMENTS, scale, heads, batches);                 \
  }

ATTENTION(64, 128)
ATTENTION(64, 256)
ATTENTION(128, 128)
ATTENTION(128, 256)
