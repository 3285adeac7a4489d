// Attention in bf16 by Hopper's warpgroups (sm_90a). The formula, the operands and the online softmax are those of
// attention.cu; sums and lse are in f32.
//
// Roofline. 4 D FLOPs per score: at D = 64 an SM's tensor cores take a sixteenth of a clock for them, as long as for
// its exponential. If one of the two units waits for the other, the times add up; so both must be kept busy at the same
// time.
//
//   wgmma   Two warpgroups have 64 queries each. The scores of the next 128 keys are computed at the same time as the
//           product of the last weights with their values: the softmax of one overlaps with the other, and a
//           warpgroup's softmax with all that the other warpgroup does. Scores stay in registers: packed, they are the
//           left operand of the second product. Blocks are persistent: the next queries, keys and values of a block are
//           loaded while it is still busy with these (common/attention_sm90.cuh). Keys and values go through one ring
//           in the order in which they are needed: K0, K1, V0, K2, V1 ... Outputs replace their queries in shared
//           memory, from where TMA stores them.
//
// Masks (causal, key mask, the end of the sequence) are applied only to tiles in which some pair may be masked. The sum
// of a row's exponentials is of f32 values, their product with V of exponentials rounded to bf16. Dropout multiplies by
// 1 / (1 - p) at the end, in f32. Sums are rescaled only if some row of the warp has found a higher score.
#include "common/softmax_sm90.cuh"

constexpr int kKeys = 128;  // Keys of a tile.

// The state of the online softmax for the lane's two rows.
struct OnlineSoftmax {
  float row_max[2];  // The maximum score, times log2 e.
  float row_sum[2];  // The sum of exponentials in the lane's columns.
  float rescale[2];  // The factor by which the last tile rescaled the sums.
};

// Replaces scores by exponentials, in place, and updates the state.
DEVICE void online_softmax(float (&s)[kKeys / 2], OnlineSoftmax& online, float scale_log2) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float new_max = fmaxf(online.row_max[r], warp_max<4>(lane_max<kKeys>(s, r)) * scale_log2);
    const float top = finite(new_max);
    online.rescale[r] = exp2_approx(online.row_max[r] - top);
    online.row_max[r] = new_max;
    online.row_sum[r] = exponentials<kKeys>(s, r, scale_log2, top, online.row_sum[r] * online.rescale[r]);
  }
}

// Masks the scores of the 16 queries from `warp_row` on and the keys from `start` on, and applies softmax and dropout.
DEVICE void softmax_tile(float (&s)[kKeys / 2], OnlineSoftmax& online, const Pairs& pairs, int warp_row, int start,
                         float scale_log2) {
  if (may_mask<kKeys>(pairs, warp_row, start)) mask_pairs<kKeys>(s, pairs, warp_row, start, -INFINITY);
  online_softmax(s, online, scale_log2);
  if (pairs.drop.threshold) drop_scores<kKeys>(s, pairs, warp_row, start);
}

template <int WIDTH, int STAGES>
DEVICE void attention_wgmma(const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& out,
                            float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads, int batches) {
  constexpr int kQueryBytes = tile_bytes<WIDTH>(kGroupRows);  // Bytes of a warpgroup's queries.
  SMEM_DYN(unsigned char, tiles);
  Slots slots;
  Ring<WIDTH, kKeys, STAGES> ring;
  init_pipeline(slots, ring, tiles + 4 * kQueryBytes);
  const int count = tile_count(tq, heads, batches), ahead = causal ? tk - tq : tk, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
#pragma unroll 1
    for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
      const WorkTile work = work_tile(t, tq, heads, batches, false);
      const int seen = min(tk, min(work.first + kTileRows, tq) + ahead);
      produce_queries<WIDTH>(tiles, q, slots, {number % 2, number / 2 & 1u}, work);
#pragma unroll 1
      for (int start = 0; start < seen; start += kKeys) {
        produce(ring, k, start, work);
        if (start > 0) produce(ring, v, start - kKeys, work);
      }
      if (seen > 0) produce(ring, v, (seen - 1) / kKeys * kKeys, work);
    }
    return;
  }

  take_registers<232>();
  const Dropout drop = dropout_of(state, site, p);
  const float scale_log2 = scale * kLog2E;
#pragma unroll 1
  for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
    const WorkTile work = work_tile(t, tq, heads, batches, false);
    const Pairs pairs = pairs_of_tile(work, key_mask, mask_pitch, drop, causal, tq, tk);
    const int slot = number % 2, seen = keys_until(pairs, min(work.first + kTileRows, tq) - 1);
    const int first = work.first + group * kGroupRows, warp_row = first + threadIdx.x % 128 / 32 * 16;
    unsigned char* queries = tiles + (2 * slot + group) * kQueryBytes;
    OnlineSoftmax online = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {1.0f, 1.0f}};
    float s[kKeys / 2], sum[WIDTH / 2];
    unsigned weights[kKeys / 16][4];
    mbarrier_wait(slots.loaded + slot, number / 2 & 1);
    if (seen > 0) {
      int stage = consumer_wait(ring);
      wgmma_fence();
      multiply_rows<WIDTH, kKeys>(s, queries, tile_of(ring, stage));
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(s);
      consumer_release(ring, stage);
      softmax_tile(s, online, pairs, warp_row, 0, scale_log2);
      pack_weights<kKeys>(weights, s);
#pragma unroll 1
      for (int start = kKeys; start < seen; start += kKeys) {
        stage = consumer_wait(ring);
        const int previous = consumer_wait(ring);
        wgmma_hold(weights);
        wgmma_hold(sum);
        wgmma_fence();
        multiply_rows<WIDTH, kKeys>(s, queries, tile_of(ring, stage));
        wgmma_commit();
        add_products<WIDTH, kKeys>(sum, weights, tile_of(ring, previous), start > kKeys);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_hold(s);
        consumer_release(ring, stage);
        softmax_tile(s, online, pairs, warp_row, start, scale_log2);
        wgmma_wait<0>();
        wgmma_hold(sum);
        wgmma_hold(weights);
        consumer_release(ring, previous);
        if (__any_sync(kAllLanes, online.rescale[0] != 1.0f || online.rescale[1] != 1.0f)) {
#pragma unroll
          for (int i = 0; i < WIDTH / 2; i++) sum[i] *= online.rescale[i / 2 % 2];
        }
        pack_weights<kKeys>(weights, s);
      }
      stage = consumer_wait(ring);
      wgmma_hold(weights);
      wgmma_hold(sum);
      wgmma_fence();
      add_products<WIDTH, kKeys>(sum, weights, tile_of(ring, stage), seen > kKeys);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(sum);
      consumer_release(ring, stage);
    } else {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) sum[i] = 0.0f;
    }

    float scales[2];
    finish_softmax(scales, online.row_max, online.row_sum, pairs, warp_row, lse);
    // The whole warpgroup has finished reading its queries.
    named_barrier(1 + group, 128);
    stage_rows<WIDTH>(queries, sum, scales);
    store_and_release(slots.released + slot, 1 + group, [&] { store_rows<WIDTH>(out, queries, first, work); });
  }
}

#define ATTENTION(width, stages)                                                                                       \
  KERNEL(attention_wgmma_##width##_bf16, 384, 1, const __grid_constant__ TensorMap q,                                  \
         const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,                                     \
         const __grid_constant__ TensorMap out, float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads,      \
         int batches) {                                                                                                \
    attention_wgmma<width, stages>(q, k, v, out, lse, PAIR_ARGUMENTS, scale, heads, batches);                          \
  }

ATTENTION(64, 8)
ATTENTION(128, 4)
