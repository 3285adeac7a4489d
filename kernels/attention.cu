// Attention: out = dropout(softmax(scale Q K^T + mask)) V for each head, and the log-sum-exp of each row of scores.
//
// q, out [B, Tq, H, D], k, v [B, Tk, H, D], lse [B, H, Tq], key_mask [B, Tk] (0 masks a key). Causal: query i sees keys
// j <= i + Tk - Tq. A row that sees no key gives zeros, with lse = -infinity.
//
// The T x T matrix is never materialised (Dao et al., arXiv 2205.14135). The softmax of a row is computed online
// (Milakov and Gimelshein, arXiv 1805.02867): keys are processed in tiles, m is the maximum score so far, l = sum exp(s
// - m), and when a tile raises m by x, the sums so far are multiplied by exp(-x).
//
// Roofline. 4 Tq Tk D FLOPs for 4 (2 Tq + 2 Tk) D bytes per head: T / 4 FLOPs per byte, so from a few hundred tokens on
// it is compute-bound, not memory-bound. In f32 without tensor cores the bound is the multiply-add pipes, followed by
// the loads from shared memory that feed them (8 of 16 bytes per 64 multiply-adds), one exponential per 2 D
// multiply-adds, and with dropout one Philox word each: about 20 integer instructions per 2 D multiply-adds.
//
// For bf16 see sm80/attention.cu; `naive` handles the heads that cannot be accessed 16 bytes at a time.
//
//   naive   a warp per query; any head size. Each lane computes the score of one key; K and V are read through the
//           caches.
//   tiled   a block per 64 queries, 4 rows per thread; 32 keys at a time in shared memory. Needs D <= 128.
#include "common/attention.cuh"

// ---- naive --------------------------------------------------------------------------------------------------------

// Two passes, the first for the log-sum-exp. Heads wider than 32 repeat the second pass for every 32 columns, one
// column per lane.
template <class T>
DEVICE void attention_naive(FORWARD_PARAMETERS(T)) {
  const int lane = threadIdx.x % 32, i = blockIdx.x * 4 + threadIdx.x / 32;
  if (i >= tq) return;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const T* query = head_rows(q, q_pitch, tq, d) + row_start(i, q_pitch);
  const T* keys = head_rows(k, k_pitch, tk, d);
  const T* values = head_rows(v, v_pitch, tk, d);
  T* row = head_rows(out, out_pitch, tq, d) + row_start(i, out_pitch);
  const int seen = keys_until(pairs, i);
  const float scale_log2 = scale * kLog2E;

  float m = -INFINITY, l = 0.0f;
  for (int j = lane; j < seen; j += 32) {
    if (!key_valid(pairs, j)) continue;
    const float s = scale_log2 * dot(query, keys + row_start(j, k_pitch), d);
    const float new_max = fmaxf(m, s);
    l = l * exp2f(m - new_max) + exp2f(s - new_max);
    m = new_max;
  }
  const float highest = finite(warp_max(m));
  const float log_sum = highest + log2f(warp_sum(l * exp2f(m - highest)));
  if (lane == 0) lse[head_number() * tq + i] = log_sum * kLn2;

  for (int first = 0; first < d; first += 32) {
    const int e = first + lane;
    float sum = 0.0f;
    for (int start = 0; start < seen; start += 32) {
      const int j = start + lane, count = min(32, seen - start);
      float weight = 0.0f;
      if (j < seen && key_valid(pairs, j) && dropout_keeps(pairs.drop, pair_index(pairs, i, j))) {
        weight = exp2f(scale_log2 * dot(query, keys + row_start(j, k_pitch), d) - log_sum) * pairs.drop.scale;
      }
      for (int n = 0; n < count; n++) {
        const float w = __shfl_sync(kAllLanes, weight, n);
        if (e < d) sum += w * to_float(values[row_start(start + n, v_pitch) + e]);
      }
    }
    if (e < d) row[e] = to<T>(sum);
  }
}

KERNEL(attention_naive_f32, 128, 1, FORWARD_PARAMETERS(float)) { attention_naive<float>(FORWARD_ARGUMENTS); }
KERNEL(attention_naive_bf16, 128, 1, FORWARD_PARAMETERS(bf16)) { attention_naive<bf16>(FORWARD_ARGUMENTS); }

// ---- tiled --------------------------------------------------------------------------------------------------------

constexpr int kQueries = 64;
constexpr int kThreads = 128;

template <int D>
DEVICE void attention_tiled(FORWARD_PARAMETERS(float), int aligned) {
  SMEM_DYN(float, tile_q);
  float* tile_k = tile_q + kQueries * D;
  float* tile_v = tile_k + kColumns * D;
  float* weights = tile_v + kColumns * D;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const float* keys = head_rows(k, k_pitch, tk, d);
  const float* values = head_rows(v, v_pitch, tk, d);
  // With a causal mask the last queries see the most keys. They are processed first, so that no long block runs alone
  // at the end.
  const int first = (gridDim.x - 1 - blockIdx.x) * kQueries;
  const int seen = keys_until(pairs, first + kQueries - 1);
  const float scale_log2 = scale * kLog2E;

  float m[4], l[4];
  float4 sum[4][D / 32] = {};
#pragma unroll
  for (int r = 0; r < 4; r++) m[r] = -INFINITY, l[r] = 0.0f;

  load_rows<kQueries, D, kThreads>(tile_q, head_rows(q, q_pitch, tq, d), q_pitch, first, tq, d, aligned);
  load_rows<kColumns, D, kThreads>(tile_k, keys, k_pitch, 0, tk, d, aligned);
  cp_async_commit();
  for (int start = 0; start < seen; start += kColumns) {
    // K has arrived, and V of the previous tile is no longer needed. V arrives while the scores are computed, the next
    // K after that.
    cp_async_wait<0>();
    __syncthreads();
    load_rows<kColumns, D, kThreads>(tile_v, values, v_pitch, start, tk, d, aligned);
    cp_async_commit();
    float s[4][4];
    multiply_rows<D>(s, tile_q, tile_k);
    cp_async_wait<0>();
    __syncthreads();
    if (start + kColumns < seen) {
      load_rows<kColumns, D, kThreads>(tile_k, keys, k_pitch, start + kColumns, tk, d, aligned);
      cp_async_commit();
    }

    const int j = start + thread_column();
    bool valid[4];
#pragma unroll
    for (int c = 0; c < 4; c++) valid[c] = key_valid(pairs, j + c);
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int i = first + thread_row() + r;
      float new_max = m[r];
#pragma unroll
      for (int c = 0; c < 4; c++) {
        s[r][c] = valid[c] && sees(pairs, i, j + c) ? s[r][c] * scale_log2 : -INFINITY;
        new_max = fmaxf(new_max, s[r][c]);
      }
      new_max = warp_max<8>(new_max);
      const float rescale = exp2f(m[r] - finite(new_max));
      m[r] = new_max;
      // Each of the row's 8 threads sums its own columns; their sums are combined at the end.
      l[r] *= rescale;
      bool keeps[4];
      keeps4(pairs, pair_index(pairs, i, j), keeps);
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const float e = exp2f(s[r][c] - finite(new_max));
        l[r] += e;
        s[r][c] = keeps[c] ? e : 0.0f;
      }
#pragma unroll
      for (int g = 0; g < D / 32; g++) {
        sum[r][g].x *= rescale;
        sum[r][g].y *= rescale;
        sum[r][g].z *= rescale;
        sum[r][g].w *= rescale;
      }
    }
    share_weights(weights, s);
    add_weighted<D>(sum, weights, tile_v);
  }

  float* rows = head_rows(out, out_pitch, tq, d);
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const int i = first + thread_row() + r;
    const float total = warp_sum<8>(l[r]);
    if (i < tq) {
      store_row<D>(rows + row_start(i, out_pitch), sum[r], total > 0.0f ? pairs.drop.scale / total : 0.0f, d);
      if (thread_column() == 0) lse[head_number() * tq + i] = (m[r] + log2f(total)) * kLn2;
    }
  }
}

KERNEL(attention_tiled_32_f32, 128, 3, FORWARD_PARAMETERS(float), int aligned) {
  attention_tiled<32>(FORWARD_ARGUMENTS, aligned);
}

KERNEL(attention_tiled_64_f32, 128, 3, FORWARD_PARAMETERS(float), int aligned) {
  attention_tiled<64>(FORWARD_ARGUMENTS, aligned);
}

KERNEL(attention_tiled_128_f32, 128, 2, FORWARD_PARAMETERS(float), int aligned) {
  attention_tiled<128>(FORWARD_ARGUMENTS, aligned);
}
