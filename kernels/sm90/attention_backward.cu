// The gradient of attention in bf16 by Hopper's warpgroups (sm_90a). The formulas and operands are those of
// attention_backward.cu. Sums, lse and delta are in f32; P and dS are rounded to bf16 before they are multiplied.
//
// In `wgmma` every output has one owner, as in sm80/attention_backward.cu: one kernel computes delta and dQ of 128
// queries at a time, another dK and dV of 128 keys. Both compute scores and dP, 14 D FLOPs per pair instead of 10: the
// price of adding in a fixed order, without a second pass over an f32 dQ in memory, with all weights in registers.
//
// Roofline. At D = 64, 14 D FLOPs take an SM's tensor cores 0.22 clocks per pair, two exponentials 0.13. `reduce` needs
// 10 D FLOPs, 0.16 clocks, and one exponential, 0.06, and all SMs add 4 D bytes per 128 pairs, 2 per pair, to dQ in L2.
//
//   wgmma   Two warpgroups own 64 rows each (common/attention_sm90.cuh). dP is computed while scores become P; in the
//           kernel for keys, dV is accumulated while dS is computed; dQ is accumulated while the next scores are
//           computed. The kernel for keys computes S^T = K Q^T and dP^T = V dout^T, so that P^T and dS^T are left
//           operands as they are. Each lane reads lse and delta of two queries of a tile, and shares them by shuffles.
//           Outputs replace the operands that their owner held, from where TMA stores them.
//   reduce  The kernel for keys computes dQ as well. Both warpgroups store dS^T of a tile's queries to shared memory,
//           and take turns in multiplying it with all 128 keys; at D > 64 each does 64 of the columns. TMA adds the
//           products to an f32 dQ [B, Tq, H, D] in the workspace (zero before), which a last kernel scales and rounds.
//           The order of additions is nondeterministic: dQ may differ in its last bits from run to run, dK and dV do
//           not. delta comes from attention_backward.cu, the zeros from fill.cu. At D > 64 there is only one slot.
#include "common/attention_sm90.cuh"
#include "common/tma_float_boxes.cuh"

// Rows of a streamed tile.
constexpr int kStreamed = 64;

// Operand `which`, of the two that a work tile owns, in a slot of `tiles`: 64 rows of it for each warpgroup.
template <int WIDTH>
DEVICE unsigned char* owned_tile(unsigned char* tiles, int slot, int which, int group) {
  return tiles + ((2 * slot + which) * 2 + group) * tile_bytes<WIDTH>(kGroupRows);
}

template <int WIDTH>
DEVICE constexpr int owned_bytes(int slots) {
  return slots * 4 * tile_bytes<WIDTH>(kGroupRows);
}

// Producer: loads the rows of both owned operands from work.first on.
template <int WIDTH, int SLOTS>
DEVICE void produce_owned(unsigned char* tiles, const TensorMap& a, const TensorMap& b, const Slots& slots, int number,
                          const WorkTile& work) {
  const int slot = number % SLOTS;
  mbarrier_wait(slots.released + slot, (number / SLOTS & 1) ^ 1);
  mbarrier_arrive_expect(slots.loaded + slot, owned_bytes<WIDTH>(1));
#pragma unroll
  for (int g = 0; g < 2; g++) {
    copy_rows<WIDTH, kGroupRows>(owned_tile<WIDTH>(tiles, slot, 0, g), a, slots.loaded + slot,
                                 work.first + g * kGroupRows, work);
    copy_rows<WIDTH, kGroupRows>(owned_tile<WIDTH>(tiles, slot, 1, g), b, slots.loaded + slot,
                                 work.first + g * kGroupRows, work);
  }
}

// ---- dQ -----------------------------------------------------------------------------------------------------------

// Turns the scores of the lane's two rows into P, in place; 0 where a pair is masked.
DEVICE void probabilities(float (&s)[kStreamed / 2], const float (&log_sum)[2], const Pairs& pairs, int warp_row,
                          int start, float scale_log2) {
#pragma unroll
  for (int i = 0; i < kStreamed / 2; i++) s[i] = exp2_approx(s[i] * scale_log2 - log_sum[i / 2 % 2]);
  if (may_mask<kStreamed>(pairs, warp_row, start)) mask_pairs<kStreamed>(s, pairs, warp_row, start, 0.0f);
}

// Applies dropout to dP.
DEVICE void drop_gradients(float (&ds)[kStreamed / 2], const Pairs& pairs, int warp_row, int start) {
#pragma unroll
  for (int h = 0; h < kStreamed / 32; h++) {
    const unsigned keeps = keeps_of_queries<1>(pairs, warp_row, start + 32 * h);
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int c = 0; c < 8; c++) {
        ds[16 * h + c / 2 * 4 + 2 * r + c % 2] *= keeps >> (c / 2 * 8 + 2 * r + c % 2) & 1 ? pairs.drop.scale : 0.0f;
      }
    }
  }
}

#define DQ_PARAMETERS                                                                                                  \
  const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,       \
      const __grid_constant__ TensorMap dout_map, const __grid_constant__ TensorMap dq, const bf16 *__restrict__ dout, \
      int dout_pitch, const bf16 *__restrict__ out, int out_pitch, const float *__restrict__ lse,                      \
      float *__restrict__ delta, PAIR_PARAMETERS, float scale, int d, int heads, int batches

template <int WIDTH, int STAGES>
DEVICE void attention_dq_wgmma(const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& dout_map,
                               const TensorMap& dq, const bf16* __restrict__ dout, int dout_pitch,
                               const bf16* __restrict__ out, int out_pitch, const float* __restrict__ lse,
                               float* __restrict__ delta, PAIR_PARAMETERS, float scale, int d, int heads, int batches) {
  SMEM_DYN(unsigned char, tiles);
  Slots slots;
  Ring<WIDTH, kStreamed, STAGES> ring;
  init_pipeline(slots, ring, tiles + owned_bytes<WIDTH>(2));
  const int count = tile_count(tq, heads, batches), ahead = causal ? tk - tq : tk, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
    tma_prefetch(dout_map);
#pragma unroll 1
    for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
      const WorkTile work = work_tile(t, tq, heads, batches, false);
      produce_owned<WIDTH, 2>(tiles, q, dout_map, slots, number, work);
      const int seen = min(tk, min(work.first + kTileRows, tq) + ahead);
#pragma unroll 1
      for (int start = 0; start < seen; start += kStreamed) {
        produce(ring, k, start, work);
        produce(ring, v, start, work);
      }
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
    float row_delta[1][2], log_sum[2];
    const long long row = static_cast<long long>(work.batch) * tq;
    row_deltas<1>(row_delta, dout + row_start(row, dout_pitch) + row_start(work.head, d), dout_pitch,
                  out + row_start(row, out_pitch) + row_start(work.head, d), out_pitch, warp_row, tq, d);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int i = warp_row + 8 * r + lane_row();
      log_sum[r] = i < tq ? lse[work.all * tq + i] * kLog2E : 0.0f;
      if (lane_column() == 0 && i < tq) delta[work.all * tq + i] = row_delta[0][r];
    }

    unsigned char* queries = owned_tile<WIDTH>(tiles, slot, 0, group);
    const unsigned char* gradients = owned_tile<WIDTH>(tiles, slot, 1, group);
    float s[kStreamed / 2], ds[kStreamed / 2], sum[WIDTH / 2];
    unsigned weights[kStreamed / 16][4];
    int previous = 0;
    mbarrier_wait(slots.loaded + slot, number / 2 & 1);
#pragma unroll 1
    for (int start = 0; start < seen; start += kStreamed) {
      const int keys = consumer_wait(ring), values = consumer_wait(ring);
      wgmma_fence();
      multiply_rows<WIDTH, kStreamed>(s, queries, tile_of(ring, keys));
      wgmma_commit();
      multiply_rows<WIDTH, kStreamed>(ds, gradients, tile_of(ring, values));
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(s);
      wgmma_hold(weights);
      // The product with the previous weights is complete, too.
      if (start > 0) consumer_release(ring, previous);
      probabilities(s, log_sum, pairs, warp_row, start, scale_log2);
      wgmma_wait<0>();
      wgmma_hold(ds);
      consumer_release(ring, values);
      if (pairs.drop.threshold) drop_gradients(ds, pairs, warp_row, start);
#pragma unroll
      for (int i = 0; i < kStreamed / 2; i++) ds[i] = s[i] * (ds[i] - row_delta[0][i / 2 % 2]);
      pack_weights<kStreamed>(weights, ds);
      wgmma_hold(weights);
      wgmma_fence();
      add_products<WIDTH, kStreamed>(sum, weights, tile_of(ring, keys), start > 0);
      wgmma_commit();
      previous = keys;
    }
    wgmma_wait<0>();
    wgmma_hold(sum);
    if (seen > 0) {
      consumer_release(ring, previous);
    } else {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) sum[i] = 0.0f;
    }
    const float scales[2] = {scale, scale};
    // The whole warpgroup has finished reading its queries.
    named_barrier(1 + group, 128);
    stage_rows<WIDTH>(queries, sum, scales);
    store_and_release(slots.released + slot, 1 + group, [&] { store_rows<WIDTH>(dq, queries, first, work); });
  }
}

#define DQ(width, stages)                                                                                              \
  KERNEL(attention_dq_wgmma_##width##_bf16, 384, 1, DQ_PARAMETERS) {                                                   \
    attention_dq_wgmma<width, stages>(q, k, v, dout_map, dq, dout, dout_pitch, out, out_pitch, lse, delta,             \
                                      PAIR_ARGUMENTS, scale, d, heads, batches);                                       \
  }

DQ(64, 8)
DQ(128, 6)

// ---- dK and dV ----------------------------------------------------------------------------------------------------

// lse, times log2 e, and delta of a tile's queries. A lane holds those of queries `lane` and 32 + `lane`; others get
// them by shuffles. Zeros beyond the end: with these, and dout zero, a query adds nothing, since P is 1 and dS is 0.
struct Statistics {
  float log_sum[kStreamed / 32], row_delta[kStreamed / 32];
};

DEVICE void load_statistics(Statistics& stats, const float* __restrict__ lse, const float* __restrict__ delta,
                            int start, int count) {
#pragma unroll
  for (int h = 0; h < kStreamed / 32; h++) {
    const int query = start + 32 * h + lane_number();
    stats.log_sum[h] = query < count ? lse[query] * kLog2E : 0.0f;
    stats.row_delta[h] = query < count ? delta[query] : 0.0f;
  }
}

// The value for the lane's column 8 n + 2 (lane % 4) + c.
DEVICE float column_value(const float (&all)[kStreamed / 32], int n, int c) {
  return __shfl_sync(kAllLanes, all[n / 4], n % 4 * 8 + lane_column() + c);
}

// Turns scores into P^T, in place; 0 where a query does not see a key. A key that is masked, or beyond the end, is
// computed like any other: it only affects its own rows of the sums, which are set to zero in the end.
DEVICE void key_probabilities(float (&s)[kStreamed / 2], const Statistics& stats, const Pairs& pairs, int warp_row,
                              int start, float scale_log2) {
#pragma unroll
  for (int n = 0; n < kStreamed / 8; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const float log_sum = column_value(stats.log_sum, n, c);
      s[4 * n + c] = exp2_approx(s[4 * n + c] * scale_log2 - log_sum);
      s[4 * n + 2 + c] = exp2_approx(s[4 * n + 2 + c] * scale_log2 - log_sum);
    }
  }
  // The first query sees the last key.
  if (start + pairs.ahead >= warp_row + 15) return;
#pragma unroll
  for (int i = 0; i < kStreamed / 2; i++) {
    const int query = start + i / 4 * 8 + lane_column() + i % 2, key = warp_row + i / 2 % 2 * 8 + lane_row();
    if (query + pairs.ahead < key) s[i] = 0.0f;
  }
}

// What dropout keeps: bit 8 i + 2 n + c of word h is key 8 i + lane / 4 and query 32 h + 8 n + 2 (lane % 4) + c.
DEVICE void draw_keys(unsigned (&keeps)[kStreamed / 32], const Pairs& pairs, int warp_row, int start) {
#pragma unroll
  for (int h = 0; h < kStreamed / 32; h++) keeps[h] = keeps_of_keys<1, 32>(pairs, warp_row, start + 32 * h);
}

// Applies dropout to the weights of dV.
DEVICE void drop_weights(unsigned (&weights)[kStreamed / 16][4], const unsigned (&keeps)[kStreamed / 32]) {
#pragma unroll
  for (int n = 0; n < kStreamed / 8; n++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const unsigned both = keeps[n / 4] >> (8 * r + n % 4 * 2);
      weights[n / 2][n % 2 * 2 + r] &= (both & 1 ? 0xffffu : 0u) | (both & 2 ? 0xffff0000u : 0u);
    }
  }
}

DEVICE void drop_key_gradients(float (&ds)[kStreamed / 2], const unsigned (&keeps)[kStreamed / 32], float scale) {
#pragma unroll
  for (int i = 0; i < kStreamed / 2; i++) {
    ds[i] *= keeps[i / 16] >> (i / 2 % 2 * 8 + i / 4 % 4 * 2 + i % 2) & 1 ? scale : 0.0f;
  }
}

// ---- dQ, for `reduce` ---------------------------------------------------------------------------------------------

constexpr int kFloatColumns = 32;                   // Columns of a box of f32.
constexpr int kTileBytes = kGroupRows * kRowBytes;  // Bytes of such a box of 64 rows, and of a warpgroup's weights.

// Behind all stages: two buffers for dS^T of each warpgroup's keys and a tile's queries, then each warpgroup's dQ boxes.
DEVICE unsigned char* ds_buffer(unsigned char* buffers, int number, int group) {
  return buffers + (number % 2 * 2 + group) * kTileBytes;
}

DEVICE unsigned char* dq_boxes(unsigned char* buffers, int group) { return buffers + (4 + 2 * group) * kTileBytes; }

// Masked keys must not contribute to dQ.
DEVICE void mask_keys(float (&s)[kStreamed / 2], const bool (&valid)[2]) {
  if (valid[0] && valid[1]) return;
#pragma unroll
  for (int i = 0; i < kStreamed / 2; i++) {
    if (!valid[i / 2 % 2]) s[i] = 0.0f;
  }
}

// Stages dS^T of the warpgroup's keys, one row per key.
DEVICE void stage_weights(unsigned char* tile, const unsigned (&weights)[kStreamed / 16][4]) {
  const int lane = lane_number(), line = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int n = 0; n < kStreamed / 16; n++) {
    stmatrix_x4(tile + line * kRowBytes + ((2 * n + lane / 16) ^ line % 8) * 16, weights[n]);
  }
}

// By one warpgroup, for 64 columns of a tile's queries: dQ += dS K over the keys of both, whose buffers are contiguous.
template <int WIDTH>
DEVICE void add_dq(const TensorMap& dq, const unsigned char* weights, const unsigned char* keys,
                   unsigned char* boxes, int column, int start, const WorkTile& work, int barrier) {
  float sum[32];
  wgmma_fence();
#pragma unroll
  for (int g = 0; g < 2; g++) {
#pragma unroll
    for (int step = 0; step < kGroupRows / 16; step++) {
      wgmma_bf16<true, true>(sum, mn_major<kGroupRows>(weights + g * kTileBytes, step),
                             mn_major<kGroupRows>(keys + g * tile_bytes<WIDTH>(kGroupRows), step), g > 0 || step > 0);
    }
  }
  wgmma_commit();
  // The previous additions have read the boxes.
  if (threadIdx.x % 128 == 0) tma_store_wait_read<0>();
  named_barrier(barrier, 128);
  wgmma_wait<0>();
  wgmma_hold(sum);
#pragma unroll
  for (int b = 0; b < 2; b++) {
    stage_floats(boxes + b * kTileBytes, reinterpret_cast<const float(&)[4][4]>(sum[b * kFloatColumns / 2]));
  }
  fence_async();
  named_barrier(barrier, 128);
  if (threadIdx.x % 128 == 0) {
#pragma unroll
    for (int b = 0; b < 2; b++) {
      tma_add(dq, boxes + b * kTileBytes, column + b * kFloatColumns, start, work.head, work.batch);
    }
    tma_store_commit();
  }
}

// ---- dK and dV, and dQ for `reduce` -------------------------------------------------------------------------------

// `dq`: null if another kernel computes it.
template <int WIDTH, int STAGES, bool WITH_DQ>
DEVICE void attention_dkdv_wgmma(const TensorMap* dq, const TensorMap& q, const TensorMap& k, const TensorMap& v,
                                 const TensorMap& dout, const TensorMap& dk, const TensorMap& dv,
                                 const float* __restrict__ lse, const float* __restrict__ delta, PAIR_PARAMETERS,
                                 float scale, int heads, int batches) {
  // With dQ in wide heads, shared memory has only one slot for owned operands.
  constexpr int kSlots = WITH_DQ && WIDTH > 64 ? 1 : 2;
  SMEM_DYN(unsigned char, tiles);
  unsigned char* buffers = tiles + owned_bytes<WIDTH>(kSlots) + STAGES * tile_bytes<WIDTH>(kStreamed);
  Slots slots;
  Ring<WIDTH, kStreamed, STAGES> ring;
  init_pipeline<kSlots>(slots, ring, tiles + owned_bytes<WIDTH>(kSlots));
  const int count = tile_count(tk, heads, batches), ahead = causal ? tk - tq : tk, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<24>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
    tma_prefetch(dout);
#pragma unroll 1
    for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
      const WorkTile work = work_tile(t, tk, heads, batches, true);
      produce_owned<WIDTH, kSlots>(tiles, k, v, slots, number, work);
      // Earlier queries see none of the keys.
#pragma unroll 1
      for (int start = max(0, work.first - ahead) / kStreamed * kStreamed; start < tq; start += kStreamed) {
        produce(ring, q, start, work);
        produce(ring, dout, start, work);
      }
    }
    return;
  }

  // The sums of 128 columns take all registers there are.
  take_registers<240>();
  const Dropout drop = dropout_of(state, site, p);
  const float scale_log2 = scale * kLog2E;
#pragma unroll 1
  for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
    const WorkTile work = work_tile(t, tk, heads, batches, true);
    const Pairs pairs = pairs_of_tile(work, key_mask, mask_pitch, drop, causal, tq, tk);
    const int slot = number % kSlots, first = work.first + group * kGroupRows;
    const int warp_row = first + threadIdx.x % 128 / 32 * 16;
    const int begin = max(0, work.first - ahead) / kStreamed * kStreamed;
    const float *head_lse = lse + work.all * tq, *head_delta = delta + work.all * tq;
    unsigned char *keys = owned_tile<WIDTH>(tiles, slot, 0, group), *values = owned_tile<WIDTH>(tiles, slot, 1, group);
    float s[kStreamed / 2], ds[kStreamed / 2], key_sum[WIDTH / 2], value_sum[WIDTH / 2];
    unsigned value_weights[kStreamed / 16][4], key_weights[kStreamed / 16][4];
    bool valid_rows[2] = {};
    if constexpr (WITH_DQ) {
#pragma unroll
      for (int r = 0; r < 2; r++) valid_rows[r] = key_valid(pairs, warp_row + 8 * r + lane_row());
    }
    mbarrier_wait(slots.loaded + slot, number / kSlots & 1);
#pragma unroll 1
    for (int start = begin; start < tq; start += kStreamed) {
      // Computed before the scores take their registers.
      unsigned keeps[kStreamed / 32] = {};
      if (pairs.drop.threshold) draw_keys(keeps, pairs, warp_row, start);
      Statistics stats;
      load_statistics(stats, head_lse, head_delta, start, tq);
      const int queries = consumer_wait(ring), gradients = consumer_wait(ring);
      wgmma_fence();
      multiply_rows<WIDTH, kStreamed>(s, keys, tile_of(ring, queries));
      wgmma_commit();
      multiply_rows<WIDTH, kStreamed>(ds, values, tile_of(ring, gradients));
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(s);
      key_probabilities(s, stats, pairs, warp_row, start, scale_log2);
      if constexpr (WITH_DQ) mask_keys(s, valid_rows);
      pack_weights<kStreamed>(value_weights, s);
      if (pairs.drop.threshold) drop_weights(value_weights, keeps);
      wgmma_hold(value_weights);
      wgmma_fence();
      add_products<WIDTH, kStreamed>(value_sum, value_weights, tile_of(ring, gradients), start > begin);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(ds);
      if (pairs.drop.threshold) drop_key_gradients(ds, keeps, pairs.drop.scale);
#pragma unroll
      for (int n = 0; n < kStreamed / 8; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float row_delta = column_value(stats.row_delta, n, c);
          ds[4 * n + c] = s[4 * n + c] * (ds[4 * n + c] - row_delta);
          ds[4 * n + 2 + c] = s[4 * n + 2 + c] * (ds[4 * n + 2 + c] - row_delta);
        }
      }
      pack_weights<kStreamed>(key_weights, ds);
      const int iteration = (start - begin) / kStreamed;
      if constexpr (WITH_DQ) {
        stage_weights(ds_buffer(buffers, iteration, group), key_weights);
        fence_async();
      }
      wgmma_hold(key_weights);
      wgmma_fence();
      add_products<WIDTH, kStreamed>(key_sum, key_weights, tile_of(ring, queries), start > begin);
      wgmma_commit();
      // The weights of both warpgroups are staged; those of the previous tile have been read, by whichever warpgroup.
      if constexpr (WITH_DQ) named_barrier(3, 256);
      // There are no registers for the next scores until these products are complete.
      wgmma_wait<0>();
      wgmma_hold(key_sum);
      wgmma_hold(value_sum);
      consumer_release(ring, queries);
      consumer_release(ring, gradients);
      if constexpr (WITH_DQ) {
        const int column = WIDTH > 64 ? 64 * group : 0;
        if (WIDTH > 64 || iteration % 2 == group) {
          add_dq<WIDTH>(*dq, ds_buffer(buffers, iteration, 0),
                        owned_tile<WIDTH>(tiles, slot, 0, 0) + column / 64 * kTileBytes, dq_boxes(buffers, group),
                        column, start, work, 1 + group);
        }
      }
    }
    float key_scales[2], value_scales[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool valid = begin < tq && key_valid(pairs, warp_row + 8 * r + lane_row());
      key_scales[r] = valid ? scale : 0.0f;
      value_scales[r] = valid ? pairs.drop.scale : 0.0f;
      if (!valid) {
        // The sums of a masked key may be infinite; those of a key that no query sees were never written.
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++) {
          if (i / 2 % 2 == r) key_sum[i] = value_sum[i] = 0.0f;
        }
      }
    }
    // The warpgroup has finished reading its keys and values; with dQ, so has the other one, which reads them too.
    if constexpr (WITH_DQ) {
      named_barrier(3, 256);
    } else {
      named_barrier(1 + group, 128);
    }
    stage_rows<WIDTH>(keys, key_sum, key_scales);
    stage_rows<WIDTH>(values, value_sum, value_scales);
    store_and_release(slots.released + slot, 1 + group, [&] {
      store_rows<WIDTH>(dk, keys, first, work);
      store_rows<WIDTH>(dv, values, first, work);
    });
  }
}

#define DKDV_PARAMETERS                                                                                                \
  const __grid_constant__ TensorMap q, const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,       \
      const __grid_constant__ TensorMap dout, const __grid_constant__ TensorMap dk,                                    \
      const __grid_constant__ TensorMap dv, const float *__restrict__ lse, const float *__restrict__ delta,            \
      PAIR_PARAMETERS, float scale, int heads, int batches
#define DKDV_ARGUMENTS q, k, v, dout, dk, dv, lse, delta, PAIR_ARGUMENTS, scale, heads, batches

#define DKDV(width, stages)                                                    \
  KERNEL(attention_dkdv_wgmma_##width##_bf16, 384, 1, DKDV_PARAMETERS) {       \
    attention_dkdv_wgmma<width, stages, false>(nullptr, DKDV_ARGUMENTS);       \
  }

DKDV(64, 8)
DKDV(128, 6)

#define DKDVDQ(width, stages)                                                                                          \
  KERNEL(attention_dkdvdq_wgmma_##width##_bf16, 384, 1, const __grid_constant__ TensorMap dq, DKDV_PARAMETERS) {       \
    attention_dkdv_wgmma<width, stages, true>(&dq, DKDV_ARGUMENTS);                                                    \
  }

DKDVDQ(64, 8)
DKDVDQ(128, 6)
