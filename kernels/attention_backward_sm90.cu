// The gradient of attention in bf16 by Hopper's warpgroups (sm_90a). The formulas and operands are those of
// attention_backward.cu; sums, lse and delta are in f32, P and dS are rounded to bf16 before the products that they are weights of.
//
// In `wgmma` every output has one owner, as in attention_backward_sm80.cu: one kernel makes delta and dQ, 128 queries at a time,
// then another dK and dV of 128 keys. Scores and dP are computed in both, 14 D FLOPs a pair instead of 10: the price of adding in a
// fixed order, without a second pass over an f32 dQ in memory, and with all weights in registers, where products leave them.
//
// Roofline. At D = 64 14 D FLOPs take a multiprocessor's tensor cores 0.22 clocks a pair, two exponentials 0.13. `reduce` makes
// 10 D FLOPs, 0.16 clocks, and one exponential, 0.06, and adds 4 D bytes to dQ for 128 pairs: 2 bytes a pair, which the
// second-level cache takes from all multiprocessors.
//
//   wgmma   Two warpgroups own 64 rows each (common/attention_sm90.cuh). While P is made of scores, dP is computed; while dS is
//           made of both, the kernel for keys adds to dV; dQ is added to while the next scores are computed. The kernel for keys
//           computes S^T = K Q^T and dP^T = V dout^T, so that P^T and dS^T are left operands as they are. It reads lse and delta
//           of a tile's queries from memory, a lane two of each, and hands them over by shuffles. Outputs take the place of what
//           their owner had, from where the copy engine writes them.
//   reduce  The kernel for keys makes dQ too. Both warpgroups leave dS^T of a tile's queries in shared memory. With all 128 keys it is
//           multiplied by one of them, in turns, or at D > 64 by each for 64 of the columns; the copy engine adds the products to an
//           f32 dQ [B, Tq, H, D] in the workspace, zero before, which a last kernel scales and rounds. In which order works add is
//           chance: dQ may differ in its last bits from run to run, dK and dV do not. delta comes from attention_backward.cu, zeros
//           from fill.cu. At D > 64 memory has one place for what works own.
#include "common/attention_sm90.cuh"
#include "common/float_boxes.cuh"

// Rows that pass by at a time.
constexpr int kPassing = 64;

// Of a work two operands are owned; each warpgroup has 64 rows of either.
// Where in `tiles` they are, of operand `which` in one of its places.
template <int WIDTH>
DEVICE unsigned char* owned_tile(unsigned char* tiles, int place, int which, int group) {
  return tiles + ((2 * place + which) * 2 + group) * tile_bytes<WIDTH>(kHalf);
}

// Bytes of them in so many places.
template <int WIDTH>
DEVICE constexpr int owned_bytes(int places) {
  return places * 4 * tile_bytes<WIDTH>(kHalf);
}

// By the thread that copies: two operands' rows from work.first on.
template <int WIDTH, int PLACES>
DEVICE void send_owned(unsigned char* tiles, const TensorMap& a, const TensorMap& b, const Places& places, int number,
                       const Work& work) {
  const int place = number % PLACES;
  mbarrier_wait(places.done + place, (number / PLACES & 1) ^ 1);
  mbarrier_arrive_expect(places.there + place, owned_bytes<WIDTH>(1));
#pragma unroll
  for (int g = 0; g < 2; g++) {
    copy_rows<WIDTH, kHalf>(owned_tile<WIDTH>(tiles, place, 0, g), a, places.there + place, work.first + g * kHalf, work);
    copy_rows<WIDTH, kHalf>(owned_tile<WIDTH>(tiles, place, 1, g), b, places.there + place, work.first + g * kHalf, work);
  }
}

// ---- dQ -----------------------------------------------------------------------------------------------------------

// P of the lane's two rows, in place of scores; 0 where a pair does not count.
DEVICE void probabilities(float (&s)[kPassing / 2], const float (&log_sum)[2], const Pairs& pairs, int mine, int start,
                          float unit) {
#pragma unroll
  for (int i = 0; i < kPassing / 2; i++) s[i] = exp2_approx(s[i] * unit - log_sum[i / 2 % 2]);
  if (hides<kPassing>(pairs, mine, start)) hide_pairs<kPassing>(s, pairs, mine, start, 0.0f);
}

// Dropout's part of dP.
DEVICE void drop_gradients(float (&ds)[kPassing / 2], const Pairs& pairs, int mine, int start) {
#pragma unroll
  for (int h = 0; h < kPassing / 32; h++) {
    const unsigned keeps = keeps_of_queries<1>(pairs, mine, start + 32 * h);
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
  Places places;
  Ring<WIDTH, kPassing, STAGES> ring;
  open_block(places, ring, tiles + owned_bytes<WIDTH>(2));
  const int count = works(tq, heads, batches), ahead = causal ? tk - tq : tk, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
    tma_prefetch(dout_map);
#pragma unroll 1
    for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
      const Work work = work_at(t, tq, heads, batches, false);
      send_owned<WIDTH, 2>(tiles, q, dout_map, places, number, work);
      const int seen = min(tk, min(work.first + kOwned, tq) + ahead);
#pragma unroll 1
      for (int start = 0; start < seen; start += kPassing) {
        send(ring, k, start, work);
        send(ring, v, start, work);
      }
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
    float mean[1][2], log_sum[2];
    const long long row = static_cast<long long>(work.batch) * tq;
    row_deltas<1>(mean, dout + row_start(row, dout_pitch) + row_start(work.head, d), dout_pitch,
                  out + row_start(row, out_pitch) + row_start(work.head, d), out_pitch, mine, tq, d);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int i = mine + 8 * r + lane_row();
      log_sum[r] = i < tq ? lse[work.all * tq + i] * kLog2E : 0.0f;
      if (lane_column() == 0 && i < tq) delta[work.all * tq + i] = mean[0][r];
    }

    unsigned char* queries = owned_tile<WIDTH>(tiles, place, 0, group);
    const unsigned char* gradients = owned_tile<WIDTH>(tiles, place, 1, group);
    float s[kPassing / 2], ds[kPassing / 2], sum[WIDTH / 2];
    unsigned weights[kPassing / 16][4];
    int before = 0;
    mbarrier_wait(places.there + place, number / 2 & 1);
#pragma unroll 1
    for (int start = 0; start < seen; start += kPassing) {
      const int keys = receive(ring), values = receive(ring);
      wgmma_fence();
      multiply_rows<WIDTH, kPassing>(s, queries, tile_of(ring, keys));
      wgmma_commit();
      multiply_rows<WIDTH, kPassing>(ds, gradients, tile_of(ring, values));
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(s);
      wgmma_hold(weights);
      // Products of the weights of before, too.
      if (start > 0) release(ring, before);
      probabilities(s, log_sum, pairs, mine, start, unit);
      wgmma_wait<0>();
      wgmma_hold(ds);
      release(ring, values);
      if (pairs.drop.threshold) drop_gradients(ds, pairs, mine, start);
#pragma unroll
      for (int i = 0; i < kPassing / 2; i++) ds[i] = s[i] * (ds[i] - mean[0][i / 2 % 2]);
      pack_weights<kPassing>(weights, ds);
      wgmma_hold(weights);
      wgmma_fence();
      add_products<WIDTH, kPassing>(sum, weights, tile_of(ring, keys), start > 0);
      wgmma_commit();
      before = keys;
    }
    wgmma_wait<0>();
    wgmma_hold(sum);
    if (seen > 0) {
      release(ring, before);
    } else {
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) sum[i] = 0.0f;
    }
    const float scales[2] = {scale, scale};
    // All of the warpgroup is done with its queries.
    named_barrier(1 + group, 128);
    put_rows<WIDTH>(queries, sum, scales);
    give_back(places.done + place, 1 + group, [&] { store_rows<WIDTH>(dq, queries, first, work); });
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

// Of a tile's queries: lse, times log2 e, and delta; a lane has those of queries `lane` and 32 + `lane`, and asks the others for its
// columns'. Zeros beyond the last: with these, and dout zero, such a query adds nothing: P is 1, and dS is 0.
struct Statistics {
  float log_sum[kPassing / 32], mean[kPassing / 32];
};

DEVICE void take_statistics(Statistics& of, const float* __restrict__ lse, const float* __restrict__ delta, int start,
                            int count) {
#pragma unroll
  for (int h = 0; h < kPassing / 32; h++) {
    const int query = start + 32 * h + lane_number();
    of.log_sum[h] = query < count ? lse[query] * kLog2E : 0.0f;
    of.mean[h] = query < count ? delta[query] : 0.0f;
  }
}

// That of the lane's column 8 n + 2 (lane % 4) + c.
DEVICE float of_column(const float (&all)[kPassing / 32], int n, int c) {
  return __shfl_sync(kAllLanes, all[n / 4], n % 4 * 8 + lane_column() + c);
}

// P^T in place of scores; 0 where a query does not see a key. A key that the mask hides, or beyond the end, is computed with like
// any other, since its rows of sums are its own, and is left out when these are written.
DEVICE void key_probabilities(float (&s)[kPassing / 2], const Statistics& of, const Pairs& pairs, int mine, int start,
                              float unit) {
#pragma unroll
  for (int n = 0; n < kPassing / 8; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const float log_sum = of_column(of.log_sum, n, c);
      s[4 * n + c] = exp2_approx(s[4 * n + c] * unit - log_sum);
      s[4 * n + 2 + c] = exp2_approx(s[4 * n + 2 + c] * unit - log_sum);
    }
  }
  // The first query sees the last key.
  if (start + pairs.ahead >= mine + 15) return;
#pragma unroll
  for (int i = 0; i < kPassing / 2; i++) {
    const int query = start + i / 4 * 8 + lane_column() + i % 2, key = mine + i / 2 % 2 * 8 + lane_row();
    if (query + pairs.ahead < key) s[i] = 0.0f;
  }
}

// Which pairs dropout keeps: bit 8 i + 2 n + c of word h for the lane's key 8 i + lane / 4 and query 32 h + 8 n + 2 (lane % 4) + c.
DEVICE void draw_keys(unsigned (&keeps)[kPassing / 32], const Pairs& pairs, int mine, int start) {
#pragma unroll
  for (int h = 0; h < kPassing / 32; h++) keeps[h] = keeps_of_keys<1, 32>(pairs, mine, start + 32 * h);
}

// Drops weights of dV.
DEVICE void drop_weights(unsigned (&weights)[kPassing / 16][4], const unsigned (&keeps)[kPassing / 32]) {
#pragma unroll
  for (int n = 0; n < kPassing / 8; n++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const unsigned both = keeps[n / 4] >> (8 * r + n % 4 * 2);
      weights[n / 2][n % 2 * 2 + r] &= (both & 1 ? 0xffffu : 0u) | (both & 2 ? 0xffff0000u : 0u);
    }
  }
}

// Dropout's part of dP^T.
DEVICE void drop_key_gradients(float (&ds)[kPassing / 2], const unsigned (&keeps)[kPassing / 32], float scale) {
#pragma unroll
  for (int i = 0; i < kPassing / 2; i++) {
    ds[i] *= keeps[i / 16] >> (i / 2 % 2 * 8 + i / 4 % 4 * 2 + i % 2) & 1 ? scale : 0.0f;
  }
}

// ---- dQ beside them -----------------------------------------------------------------------------------------------

constexpr int kFloats = 32;          // Columns of a box of f32.
constexpr int kTile = kHalf * kRow;  // Bytes of it, of 64 rows, and of weights of a warpgroup.

// Where behind all stages dS^T of a warpgroup's keys and a tile's queries is, in one of two places; and behind these its boxes of dQ.
DEVICE unsigned char* weights_of(unsigned char* behind, int number, int group) {
  return behind + (number % 2 * 2 + group) * kTile;
}

DEVICE unsigned char* boxes_of(unsigned char* behind, int group) { return behind + (4 + 2 * group) * kTile; }

// Nor does a key that does not count give anything to dQ.
DEVICE void hide_keys(float (&s)[kPassing / 2], const bool (&counts)[2]) {
  if (counts[0] && counts[1]) return;
#pragma unroll
  for (int i = 0; i < kPassing / 2; i++) {
    if (!counts[i / 2 % 2]) s[i] = 0.0f;
  }
}

// dS^T of the warpgroup's keys: a row for each.
DEVICE void put_weights(unsigned char* tile, const unsigned (&weights)[kPassing / 16][4]) {
  const int lane = lane_number(), line = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int n = 0; n < kPassing / 16; n++) {
    stmatrix_x4(tile + line * kRow + ((2 * n + lane / 16) ^ line % 8) * 16, weights[n]);
  }
}

// 64 columns of a tile's queries, by one warpgroup: dQ += dS K over the keys of both, whose weights and tiles follow one another.
template <int WIDTH>
DEVICE void add_queries(const TensorMap& dq, const unsigned char* weights, const unsigned char* keys,
                        unsigned char* boxes, int column, int start, const Work& work, int barrier) {
  float sum[32];
  wgmma_fence();
#pragma unroll
  for (int g = 0; g < 2; g++) {
#pragma unroll
    for (int step = 0; step < kHalf / 16; step++) {
      wgmma_bf16<true, true>(sum, along_rows<kHalf>(weights + g * kTile, step),
                             along_rows<kHalf>(keys + g * tile_bytes<WIDTH>(kHalf), step), g > 0 || step > 0);
    }
  }
  wgmma_commit();
  // What was in the boxes has been read.
  if (threadIdx.x % 128 == 0) tma_store_wait_read<0>();
  named_barrier(barrier, 128);
  wgmma_wait<0>();
  wgmma_hold(sum);
#pragma unroll
  for (int b = 0; b < 2; b++) {
    put_floats(boxes + b * kTile, reinterpret_cast<const float(&)[4][4]>(sum[b * kFloats / 2]));
  }
  fence_async();
  named_barrier(barrier, 128);
  if (threadIdx.x % 128 == 0) {
#pragma unroll
    for (int b = 0; b < 2; b++) {
      tma_add(dq, boxes + b * kTile, column + b * kFloats, start, work.head, work.batch);
    }
    tma_store_commit();
  }
}

// ---- Works of keys ------------------------------------------------------------------------------------------------

// `dq`: none where another kernel makes it.
template <int WIDTH, int STAGES, bool WITH_QUERIES>
DEVICE void attention_dkdv_wgmma(const TensorMap* dq, const TensorMap& q, const TensorMap& k, const TensorMap& v,
                                 const TensorMap& dout, const TensorMap& dk, const TensorMap& dv,
                                 const float* __restrict__ lse, const float* __restrict__ delta, PAIR_PARAMETERS,
                                 float scale, int heads, int batches) {
  // What works own has one place where dQ takes the other.
  constexpr int kPlaces = WITH_QUERIES && WIDTH > 64 ? 1 : 2;
  SMEM_DYN(unsigned char, tiles);
  unsigned char* behind = tiles + owned_bytes<WIDTH>(kPlaces) + STAGES * tile_bytes<WIDTH>(kPassing);
  Places places;
  Ring<WIDTH, kPassing, STAGES> ring;
  open_block<kPlaces>(places, ring, tiles + owned_bytes<WIDTH>(kPlaces));
  const int count = works(tk, heads, batches), ahead = causal ? tk - tq : tk, group = threadIdx.x / 128;
  if (group == 2) {
    give_registers<24>();
    if (threadIdx.x != 256) return;
    tma_prefetch(q);
    tma_prefetch(k);
    tma_prefetch(v);
    tma_prefetch(dout);
#pragma unroll 1
    for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
      const Work work = work_at(t, tk, heads, batches, true);
      send_owned<WIDTH, kPlaces>(tiles, k, v, places, number, work);
      // Queries before these see none of the keys.
#pragma unroll 1
      for (int start = max(0, work.first - ahead) / kPassing * kPassing; start < tq; start += kPassing) {
        send(ring, q, start, work);
        send(ring, dout, start, work);
      }
    }
    return;
  }

  // Sums of 128 columns take all that there are.
  take_registers<240>();
  const Dropout drop = dropout_of(state, site, p);
  const float unit = scale * kLog2E;
#pragma unroll 1
  for (int t = blockIdx.x, number = 0; t < count; t += gridDim.x, number++) {
    const Work work = work_at(t, tk, heads, batches, true);
    const Pairs pairs = pairs_of_work(work, key_mask, mask_pitch, drop, causal, tq, tk);
    const int place = number % kPlaces, first = work.first + group * kHalf, mine = first + threadIdx.x % 128 / 32 * 16;
    const int begin = max(0, work.first - ahead) / kPassing * kPassing;
    const float *head_lse = lse + work.all * tq, *head_delta = delta + work.all * tq;
    unsigned char *keys = owned_tile<WIDTH>(tiles, place, 0, group), *values = owned_tile<WIDTH>(tiles, place, 1, group);
    float s[kPassing / 2], ds[kPassing / 2], key_sum[WIDTH / 2], value_sum[WIDTH / 2];
    unsigned value_weights[kPassing / 16][4], key_weights[kPassing / 16][4];
    bool counting[2] = {};
    if constexpr (WITH_QUERIES) {
#pragma unroll
      for (int r = 0; r < 2; r++) counting[r] = key_counts(pairs, mine + 8 * r + lane_row());
    }
    mbarrier_wait(places.there + place, number / kPlaces & 1);
#pragma unroll 1
    for (int start = begin; start < tq; start += kPassing) {
      // Before the scores take their registers.
      unsigned keeps[kPassing / 32] = {};
      if (pairs.drop.threshold) draw_keys(keeps, pairs, mine, start);
      Statistics of;
      take_statistics(of, head_lse, head_delta, start, tq);
      const int queries = receive(ring), gradients = receive(ring);
      wgmma_fence();
      multiply_rows<WIDTH, kPassing>(s, keys, tile_of(ring, queries));
      wgmma_commit();
      multiply_rows<WIDTH, kPassing>(ds, values, tile_of(ring, gradients));
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(s);
      key_probabilities(s, of, pairs, mine, start, unit);
      if constexpr (WITH_QUERIES) hide_keys(s, counting);
      pack_weights<kPassing>(value_weights, s);
      if (pairs.drop.threshold) drop_weights(value_weights, keeps);
      wgmma_hold(value_weights);
      wgmma_fence();
      add_products<WIDTH, kPassing>(value_sum, value_weights, tile_of(ring, gradients), start > begin);
      wgmma_commit();
      wgmma_wait<1>();
      wgmma_hold(ds);
      if (pairs.drop.threshold) drop_key_gradients(ds, keeps, pairs.drop.scale);
#pragma unroll
      for (int n = 0; n < kPassing / 8; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float mean = of_column(of.mean, n, c);
          ds[4 * n + c] = s[4 * n + c] * (ds[4 * n + c] - mean);
          ds[4 * n + 2 + c] = s[4 * n + 2 + c] * (ds[4 * n + 2 + c] - mean);
        }
      }
      pack_weights<kPassing>(key_weights, ds);
      const int passed = (start - begin) / kPassing;
      if constexpr (WITH_QUERIES) {
        put_weights(weights_of(behind, passed, group), key_weights);
        fence_async();
      }
      wgmma_hold(key_weights);
      wgmma_fence();
      add_products<WIDTH, kPassing>(key_sum, key_weights, tile_of(ring, queries), start > begin);
      wgmma_commit();
      // Weights of both are there; those of the tile before, whoever multiplied them, have been read.
      if constexpr (WITH_QUERIES) named_barrier(3, 256);
      // Nor are there registers for the next scores meanwhile.
      wgmma_wait<0>();
      wgmma_hold(key_sum);
      wgmma_hold(value_sum);
      release(ring, queries);
      release(ring, gradients);
      if constexpr (WITH_QUERIES) {
        const int column = WIDTH > 64 ? 64 * group : 0;
        if (WIDTH > 64 || passed % 2 == group) {
          add_queries<WIDTH>(*dq, weights_of(behind, passed, 0), owned_tile<WIDTH>(tiles, place, 0, 0) + column / 64 * kTile,
                             boxes_of(behind, group), column, start, work, 1 + group);
        }
      }
    }
    float key_scales[2], value_scales[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const bool counts = begin < tq && key_counts(pairs, mine + 8 * r + lane_row());
      key_scales[r] = counts ? scale : 0.0f;
      value_scales[r] = counts ? pairs.drop.scale : 0.0f;
      if (!counts) {
        // What a hidden key was given may be infinite; what no query sees was given nothing.
#pragma unroll
        for (int i = 0; i < WIDTH / 2; i++) {
          if (i / 2 % 2 == r) key_sum[i] = value_sum[i] = 0.0f;
        }
      }
    }
    // All of the warpgroup is done with its keys and values; so is the other, where it multiplied them.
    if constexpr (WITH_QUERIES) {
      named_barrier(3, 256);
    } else {
      named_barrier(1 + group, 128);
    }
    put_rows<WIDTH>(keys, key_sum, key_scales);
    put_rows<WIDTH>(values, value_sum, value_scales);
    give_back(places.done + place, 1 + group, [&] {
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
