// Attention in bf16 by Hopper's warpgroups (sm_90a). The formula, the operands and the online softmax are those of
// attention.cu; sums are in f32, and lse is.
//
// Roofline. 4 D FLOPs a score: at D = 64 a multiprocessor's tensor cores take as long for them, a sixteenth of a clock, as its
// exponentials. Whatever keeps one of the two waiting for the other counts twice; so both go on side by side.
//
//   wgmma   Two warpgroups have 64 queries each. Scores of the next 128 keys are computed while the products of the last
//           weights with their values are: the softmax of the ones overlaps with the others, and a warpgroup's with all that the
//           other does. Scores stay in registers: packed, they are the left operand of the second product. A block stays, and
//           its next queries, keys and values arrive while it is still busy with these (common/attention_sm90.cuh).
//           Keys and values pass through one ring in the order in which they are wanted: K0, K1, V0, K2, V1 ...
//           Outputs take the place of their queries, from where the copy engine writes them.
//
// What a pair needs besides (causal, key mask, the ragged end) is done only in tiles where some pair does not count. The sum of
// a row's exponentials is of f32, its product with V of exponentials rounded to bf16; dropout multiplies by 1 / (1 - p) at
// the end, in f32. Sums are shrunk only where some row of the warp has found a higher score.
#include "common/softmax_sm90.cuh"

constexpr int kKeys = 128;  // Of a tile.

// What the online softmax keeps of the lane's two rows.
struct Rows {
  float high[2];    // The highest score, times log2 e.
  float total[2];   // Of exponentials in the lane's columns.
  float shrink[2];  // What the last tile did to sums before it.
};

// Scores to exponentials, in place.
DEVICE void softmax(float (&s)[kKeys / 2], Rows& rows, float unit) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float higher = fmaxf(rows.high[r], warp_max<4>(highest<kKeys>(s, r)) * unit);
    const float top = finite(higher);
    rows.shrink[r] = exp2_approx(rows.high[r] - top);
    rows.high[r] = higher;
    rows.total[r] = exponentials<kKeys>(s, r, unit, top, rows.total[r] * rows.shrink[r]);
  }
}

// All that is done to the scores of queries `mine` to `mine` + 15 and the keys from `start` on.
DEVICE void weigh(float (&s)[kKeys / 2], Rows& rows, const Pairs& pairs, int mine, int start, float unit) {
  if (hides<kKeys>(pairs, mine, start)) hide_pairs<kKeys>(s, pairs, mine, start, -INFINITY);
  softmax(s, rows, unit);
  if (pairs.drop.threshold) drop_scores<kKeys>(s, pairs, mine, start);
}

template <int WIDTH, int STAGES>
DEVICE void attention_wgmma(const TensorMap& q, const TensorMap& k, const TensorMap& v, const TensorMap& out,
                            float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads, int batches) {
  constexpr int kQueries = tile_bytes<WIDTH>(kHalf);  // Bytes of a warpgroup's.
  SMEM_DYN(unsigned char, tiles);
  Places places;
  Ring<WIDTH, kKeys, STAGES> ring;
  open_block(places, ring, tiles + 4 * kQueries);
  const int count = works(tq, heads, batches), ahead = causal ? tk - tq : tk, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
#pragma unroll 1
    for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
      const Work work = work_at(t, tq, heads, batches, false);
      const int seen = min(tk, min(work.first + kOwned, tq) + ahead);
      send_queries<WIDTH>(tiles, q, places, {number % 2, number / 2 & 1u}, work);
#pragma unroll 1
      for (int start = 0; start < seen; start += kKeys) {
        send(ring, k, start, work);
        if (start > 0) send(ring, v, start - kKeys, work);
      }
      if (seen > 0) send(ring, v, (seen - 1) / kKeys * kKeys, work);
    }
    return;
  }

  take_registers<232>();
  const Dropout drop = dropout_of(state, site, p);
  const float unit = scale * kLog2E;
#pragma unroll 1
  for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
    const Work work = work_at(t, tq, heads, batches, false);
    const Pairs pairs = pairs_of_work(work, key_mask, mask_pitch, drop, causal, tq, tk);
    const int place = number % 2, seen = keys_until(pairs, min(work.first + kOwned, tq) - 1);
    const int first = work.first + group * kHalf, mine = first + threadIdx.x % 128 / 32 * 16;
    unsigned char* queries = tiles + (2 * place + group) * kQueries;
    Rows rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {1.0f, 1.0f}};
    float s[kKeys / 2], sum[WIDTH / 2];
    unsigned weights[kKeys / 16][4];
    mbarrier_wait(places.there + place, number / 2 & 1);
    if (seen > 0) {
      int stage = receive(ring);
      wgmma_fence();
      multiply_rows<WIDTH, kKeys>(s, queries, tile_of(ring, stage));
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(s);
      release(ring, stage);
      weigh(s, rows, pairs, mine, 0, unit);
      pack_weights<kKeys>(weights, s);
#pragma unroll 1
      for (int start = kKeys; start < seen; start += kKeys) {
        stage = receive(ring);
        const int before = receive(ring);
        wgmma_hold(weights);
        wgmma_hold(sum);
        wgmma_fence();
        multiply_rows<WIDTH, kKeys>(s, queries, tile_of(ring, stage));
        wgmma_commit();
        add_products<WIDTH, kKeys>(sum, weights, tile_of(ring, before), start > kKeys);
        wgmma_commit();
        wgmma_wait<1>();
        wgmma_hold(s);
        release(ring, stage);
        weigh(s, rows, pairs, mine, start, unit);
        wgmma_wait<0>();
        wgmma_hold(sum);
        wgmma_hold(weights);
        release(ring, before);
        if (__any_sync(kAllLanes, rows.shrink[0] != 1.0f || rows.shrink[1] != 1.0f)) {
#pragma unroll
          for (int i = 0; i < WIDTH / 2; i++) sum[i] *= rows.shrink[i / 2 % 2];
        }
        pack_weights<kKeys>(weights, s);
      }
      stage = receive(ring);
      wgmma_hold(weights);
      wgmma_hold(sum);
      wgmma_fence();
      add_products<WIDTH, kKeys>(sum, weights, tile_of(ring, stage), seen > kKeys);
      wgmma_commit();
      wgmma_wait<0>();
      wgmma_hold(sum);
      release(ring, stage);
    } else {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) sum[i] = 0.0f;
    }

    float scales[2];
    end_softmax(scales, rows.high, rows.total, pairs, mine, lse);
    // All of the warpgroup is done with its queries.
    named_barrier(1 + group, 128);
    put_rows<WIDTH>(queries, sum, scales);
    give_back(places.done + place, 1 + group, [&] { store_rows<WIDTH>(out, queries, first, work); });
  }
}

#define ATTENTION(width, stages)                                                                                        \
  KERNEL(attention_wgmma_##width##_bf16, 384, 1, const __grid_constant__ TensorMap q,                                   \
         const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,                                      \
         const __grid_constant__ TensorMap out, float* __restrict__ lse, PAIR_PARAMETERS, float scale, int heads,       \
         int batches) {                                                                                                 \
    attention_wgmma<width, stages>(q, k, v, out, lse, PAIR_ARGUMENTS, scale, heads, batches);                           \
  }

ATTENTION(64, 8)
ATTENTION(128, 4)
