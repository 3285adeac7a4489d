// The gradient of attention: dq, dk and dv from dout. The probabilities are recomputed from q, k and lse.
//
// P = exp(scale Q K^T - lse), dP = dout V^T, delta = rowsum(dout out), and then dV = P^T dout, dS = P (dP - delta), dQ
// = scale dS K, dK = scale dS^T Q. Dropout masks P in dV, and dP, with the words that the forward pass drew. delta is
// the sum over a row of P dP, which needs no pass over the keys since out is P V.
//
// q, dout, dq [B, Tq, H, D], k, v, dk, dv [B, Tk, H, D], lse, delta [B, H, Tq].
//
// Every output has one owner: one kernel iterates over the keys and computes dQ, another iterates over the queries and
// computes dK and dV. Both compute scores and dP, so the total is 14 Tq Tk D FLOPs instead of 10. This is the price of
// adding in a fixed order without atomics. A row that sees no key would divide by zero, but none of its pairs is used.
//
// Roofline. 14 Tq Tk D FLOPs for 4 (5 Tq + 6 Tk) D bytes per head: bound by the multiply-add pipes, like the forward
// pass.
//
// For bf16 see sm80/attention_backward.cu; `naive` handles the heads that cannot be accessed 16 bytes at a time.
//
//   naive   a warp per query, then a warp per key; any head size.
//   tiled   a block per 64 queries, then a block per 64 keys (32 at D = 128, where four tiles of 64 rows exceed shared
//           memory). The other operands are streamed 32 rows at a time. Needs D <= 128.
#include "common/attention.cuh"

// The weight of dout in dv, and that of k in dq (and of q in dk), for one pair: (P after dropout, dS), from a score in
// units of log2 e.
DEVICE float2 pair_weights(float score, float log_sum, float dp, float delta, bool keeps, float keep_scale) {
  const float p = exp2f(score - log_sum), keep_factor = keeps ? keep_scale : 0.0f;
  return make_float2(p * keep_factor, p * (dp * keep_factor - delta));
}

#define DELTA_PARAMETERS(T)                                                                                            \
  const T *__restrict__ dout, int dout_pitch, const T *__restrict__ out, int out_pitch, float *__restrict__ delta,     \
      int tq, int d
#define DELTA_ARGUMENTS dout, dout_pitch, out, out_pitch, delta, tq, d

template <class T>
DEVICE void attention_delta(DELTA_PARAMETERS(T)) {
  const int lane = threadIdx.x % 32, i = blockIdx.x * 4 + threadIdx.x / 32;
  if (i >= tq) return;
  const T* x = head_rows(dout, dout_pitch, tq, d) + row_start(i, dout_pitch);
  const T* y = head_rows(out, out_pitch, tq, d) + row_start(i, out_pitch);
  float sum = 0.0f;
  for (int e = lane; e < d; e += 32) sum += to_float(x[e]) * to_float(y[e]);
  sum = warp_sum(sum);
  if (lane == 0) delta[head_number() * tq + i] = sum;
}

KERNEL(attention_delta_f32, 128, 1, DELTA_PARAMETERS(float)) { attention_delta<float>(DELTA_ARGUMENTS); }
KERNEL(attention_delta_bf16, 128, 1, DELTA_PARAMETERS(bf16)) { attention_delta<bf16>(DELTA_ARGUMENTS); }

// Scales complete sums (`reduce` in sm90/attention_backward.cu) and rounds them to dq, eight neighbours per thread.
// Rows of both hold all heads.
KERNEL(attention_dq_round_bf16, 256, 1, const float* __restrict__ sums, bf16* __restrict__ dq, int dq_pitch, int rows,
       int width, float scale) {
  const long long piece = static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
  const int pieces = width / 8, column = piece % pieces * 8;
  const long long row = piece / pieces;
  if (row >= rows) return;
  const float* from = sums + row_start(row, width) + column;
  const Vec<float> halves[2] = {load(from), load(from + 4)};
  Vec<bf16> all;
#pragma unroll
  for (int e = 0; e < 8; e++) all.v[e] = halves[e / 4].v[e % 4] * scale;
  store(dq + row_start(row, dq_pitch) + column, all);
}

// ---- naive --------------------------------------------------------------------------------------------------------

// The weights of one pair; zeros if it is masked.
template <class T>
DEVICE float2 naive_weights(const Pairs& pairs, int i, int j, const T* __restrict__ query, const T* __restrict__ key,
                            const T* __restrict__ value, const T* __restrict__ gradient, float log_sum,
                            float delta, float scale, int d) {
  if (!key_valid(pairs, j) || !sees(pairs, i, j)) return make_float2(0.0f, 0.0f);
  const bool keeps = dropout_keeps(pairs.drop, pair_index(pairs, i, j));
  const float score = scale * kLog2E * dot(query, key, d);
  return pair_weights(score, log_sum * kLog2E, dot(gradient, value, d), delta, keeps, pairs.drop.scale);
}

template <class T>
DEVICE void attention_dq_naive(INPUT_PARAMETERS(T), T* __restrict__ dq, int dq_pitch) {
  const int lane = threadIdx.x % 32, i = blockIdx.x * 4 + threadIdx.x / 32;
  if (i >= tq) return;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const T* query = head_rows(q, q_pitch, tq, d) + row_start(i, q_pitch);
  const T* gradient = head_rows(dout, dout_pitch, tq, d) + row_start(i, dout_pitch);
  const T* keys = head_rows(k, k_pitch, tk, d);
  const T* values = head_rows(v, v_pitch, tk, d);
  T* row = head_rows(dq, dq_pitch, tq, d) + row_start(i, dq_pitch);
  const float log_sum = lse[head_number() * tq + i], row_delta = delta[head_number() * tq + i];
  const int seen = keys_until(pairs, i);
  for (int first = 0; first < d; first += 32) {
    const int e = first + lane;
    float sum = 0.0f;
    for (int start = 0; start < seen; start += 32) {
      const int j = start + lane, count = min(32, seen - start);
      const float2 weights = naive_weights(pairs, i, j, query, keys + row_start(j, k_pitch),
                                           values + row_start(j, v_pitch), gradient, log_sum, row_delta, scale, d);
      for (int n = 0; n < count; n++) {
        const float ds = __shfl_sync(kAllLanes, weights.y, n);
        if (e < d) sum += ds * to_float(keys[row_start(start + n, k_pitch) + e]);
      }
    }
    if (e < d) row[e] = to<T>(sum * scale);
  }
}

template <class T>
DEVICE void attention_dkdv_naive(INPUT_PARAMETERS(T), T* __restrict__ dk, int dk_pitch, T* __restrict__ dv,
                                 int dv_pitch) {
  const int lane = threadIdx.x % 32, j = blockIdx.x * 4 + threadIdx.x / 32;
  if (j >= tk) return;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const T* key = head_rows(k, k_pitch, tk, d) + row_start(j, k_pitch);
  const T* value = head_rows(v, v_pitch, tk, d) + row_start(j, v_pitch);
  const T* queries = head_rows(q, q_pitch, tq, d);
  const T* gradients = head_rows(dout, dout_pitch, tq, d);
  T* key_row = head_rows(dk, dk_pitch, tk, d) + row_start(j, dk_pitch);
  T* value_row = head_rows(dv, dv_pitch, tk, d) + row_start(j, dv_pitch);
  const float* head_lse = lse + head_number() * tq;
  const float* head_delta = delta + head_number() * tq;
  for (int first = 0; first < d; first += 32) {
    const int e = first + lane;
    float key_sum = 0.0f, value_sum = 0.0f;
    for (int start = max(0, j - pairs.ahead); start < tq; start += 32) {
      const int i = start + lane, count = min(32, tq - start);
      float2 weights = make_float2(0.0f, 0.0f);
      if (i < tq) {
        weights = naive_weights(pairs, i, j, queries + row_start(i, q_pitch), key, value,
                                gradients + row_start(i, dout_pitch), head_lse[i], head_delta[i], scale, d);
      }
      for (int n = 0; n < count; n++) {
        const float p = __shfl_sync(kAllLanes, weights.x, n);
        const float ds = __shfl_sync(kAllLanes, weights.y, n);
        if (e < d) {
          value_sum += p * to_float(gradients[row_start(start + n, dout_pitch) + e]);
          key_sum += ds * to_float(queries[row_start(start + n, q_pitch) + e]);
        }
      }
    }
    if (e < d) {
      key_row[e] = to<T>(key_sum * scale);
      value_row[e] = to<T>(value_sum);
    }
  }
}

KERNEL(attention_dq_naive_f32, 128, 1, INPUT_PARAMETERS(float), float* __restrict__ dq, int dq_pitch) {
  attention_dq_naive<float>(INPUT_ARGUMENTS, dq, dq_pitch);
}

KERNEL(attention_dq_naive_bf16, 128, 1, INPUT_PARAMETERS(bf16), bf16* __restrict__ dq, int dq_pitch) {
  attention_dq_naive<bf16>(INPUT_ARGUMENTS, dq, dq_pitch);
}

KERNEL(attention_dkdv_naive_f32, 128, 1, INPUT_PARAMETERS(float), float* __restrict__ dk, int dk_pitch,
       float* __restrict__ dv, int dv_pitch) {
  attention_dkdv_naive<float>(INPUT_ARGUMENTS, dk, dk_pitch, dv, dv_pitch);
}

KERNEL(attention_dkdv_naive_bf16, 128, 1, INPUT_PARAMETERS(bf16), bf16* __restrict__ dk, int dk_pitch,
       bf16* __restrict__ dv, int dv_pitch) {
  attention_dkdv_naive<bf16>(INPUT_ARGUMENTS, dk, dk_pitch, dv, dv_pitch);
}

// ---- tiled --------------------------------------------------------------------------------------------------------

// Rows that a block owns. Eight threads share four rows.
template <int D>
constexpr int kRows = D <= 64 ? 64 : 32;
template <int D>
constexpr int kThreads = kRows<D> * 2;

// A block owns queries and dq; keys and values are streamed.
template <int D>
DEVICE void attention_dq_tiled(INPUT_PARAMETERS(float), float* __restrict__ dq, int dq_pitch, int aligned) {
  constexpr int ROWS = kRows<D>, THREADS = kThreads<D>;
  SMEM_DYN(float, tile_q);
  float* tile_dout = tile_q + ROWS * D;
  float* tile_k = tile_dout + ROWS * D;
  float* tile_v = tile_k + kColumns * D;
  float* weights = tile_v + kColumns * D;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const float* keys = head_rows(k, k_pitch, tk, d);
  const float* values = head_rows(v, v_pitch, tk, d);
  // With a causal mask the last queries see the most keys, so they are processed first.
  const int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int seen = keys_until(pairs, first + ROWS - 1);
  const float scale_log2 = scale * kLog2E;

  load_rows<ROWS, D, THREADS>(tile_dout, head_rows(dout, dout_pitch, tq, d), dout_pitch, first, tq, d, aligned);
  load_rows<kColumns, D, THREADS>(tile_v, values, v_pitch, 0, tk, d, aligned);
  cp_async_commit();
  load_rows<ROWS, D, THREADS>(tile_q, head_rows(q, q_pitch, tq, d), q_pitch, first, tq, d, aligned);
  load_rows<kColumns, D, THREADS>(tile_k, keys, k_pitch, 0, tk, d, aligned);
  cp_async_commit();

  float log_sum[4], row_delta[4];
  float4 sum[4][D / 32] = {};
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const int i = first + thread_row() + r;
    log_sum[r] = i < tq ? lse[head_number() * tq + i] * kLog2E : 0.0f;
    row_delta[r] = i < tq ? delta[head_number() * tq + i] : 0.0f;
  }

  for (int start = 0; start < seen; start += kColumns) {
    const int next = start + kColumns;
    float s[4][4], dp[4][4];
    // V has arrived, K perhaps not yet: it is in the latest group of copies.
    cp_async_wait<1>();
    __syncthreads();
    multiply_rows<D>(dp, tile_dout, tile_v);
    // K has arrived, and V is no longer needed. Waits count groups, so each iteration commits one even if nothing is
    // left to copy.
    cp_async_wait<0>();
    __syncthreads();
    if (next < seen) load_rows<kColumns, D, THREADS>(tile_v, values, v_pitch, next, tk, d, aligned);
    cp_async_commit();
    multiply_rows<D>(s, tile_q, tile_k);

    const int j = start + thread_column();
    bool valid[4];
#pragma unroll
    for (int c = 0; c < 4; c++) valid[c] = key_valid(pairs, j + c);
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int i = first + thread_row() + r;
      bool keeps[4];
      keeps4(pairs, pair_index(pairs, i, j), keeps);
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const float2 w =
            pair_weights(s[r][c] * scale_log2, log_sum[r], dp[r][c], row_delta[r], keeps[c], pairs.drop.scale);
        s[r][c] = valid[c] && sees(pairs, i, j + c) ? w.y : 0.0f;
      }
    }
    share_weights(weights, s);
    add_weighted<D>(sum, weights, tile_k);
    __syncthreads();
    if (next < seen) load_rows<kColumns, D, THREADS>(tile_k, keys, k_pitch, next, tk, d, aligned);
    cp_async_commit();
  }

  float* rows = head_rows(dq, dq_pitch, tq, d);
#pragma unroll
  for (int r = 0; r < 4; r++) {
    const int i = first + thread_row() + r;
    if (i < tq) store_row<D>(rows + row_start(i, dq_pitch), sum[r], scale, d);
  }
}

// A block owns keys, values and their gradients; queries and dout are streamed. Tiles of scores are transposed: rows
// are keys.
template <int D>
DEVICE void attention_dkdv_tiled(INPUT_PARAMETERS(float), float* __restrict__ dk, int dk_pitch, float* __restrict__ dv,
                                 int dv_pitch, int aligned) {
  constexpr int ROWS = kRows<D>, THREADS = kThreads<D>;
  SMEM_DYN(float, tile_k);
  float* tile_v = tile_k + ROWS * D;
  float* tile_q = tile_v + ROWS * D;
  float* tile_dout = tile_q + kColumns * D;
  float* weights = tile_dout + kColumns * D;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const float* queries = head_rows(q, q_pitch, tq, d);
  const float* gradients = head_rows(dout, dout_pitch, tq, d);
  const float* head_lse = lse + head_number() * tq;
  const float* head_delta = delta + head_number() * tq;
  const int first = blockIdx.x * ROWS;
  // Earlier queries see none of the keys.
  const int begin = max(0, first - pairs.ahead) / kColumns * kColumns;
  const float scale_log2 = scale * kLog2E;

  load_rows<ROWS, D, THREADS>(tile_v, head_rows(v, v_pitch, tk, d), v_pitch, first, tk, d, aligned);
  load_rows<kColumns, D, THREADS>(tile_dout, gradients, dout_pitch, begin, tq, d, aligned);
  cp_async_commit();
  load_rows<ROWS, D, THREADS>(tile_k, head_rows(k, k_pitch, tk, d), k_pitch, first, tk, d, aligned);
  load_rows<kColumns, D, THREADS>(tile_q, queries, q_pitch, begin, tq, d, aligned);
  cp_async_commit();

  bool valid[4];
  float4 key_sum[4][D / 32] = {}, value_sum[4][D / 32] = {};
  const int j = first + thread_row();
#pragma unroll
  for (int r = 0; r < 4; r++) valid[r] = key_valid(pairs, j + r);

  for (int start = begin; start < tq; start += kColumns) {
    const int next = start + kColumns;
    float p[4][4], ds[4][4];
    // As in dq: dout arrives first, then q.
    cp_async_wait<1>();
    __syncthreads();
    multiply_rows<D>(ds, tile_v, tile_dout);
    cp_async_wait<0>();
    __syncthreads();
    multiply_rows<D>(p, tile_k, tile_q);

#pragma unroll
    for (int c = 0; c < 4; c++) {
      const int i = start + thread_column() + c;
      const float log_sum = i < tq ? head_lse[i] * kLog2E : 0.0f, row_delta = i < tq ? head_delta[i] : 0.0f;
      bool keeps[4];
      keeps4(pairs, pair_index(pairs, i, j), keeps);
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const float2 w = pair_weights(p[r][c] * scale_log2, log_sum, ds[r][c], row_delta, keeps[r], pairs.drop.scale);
        const bool pair = valid[r] && sees(pairs, i, j + r);
        p[r][c] = pair ? w.x : 0.0f;
        ds[r][c] = pair ? w.y : 0.0f;
      }
    }
    share_weights(weights, p);
    add_weighted<D>(value_sum, weights, tile_dout);
    __syncthreads();
    if (next < tq) load_rows<kColumns, D, THREADS>(tile_dout, gradients, dout_pitch, next, tq, d, aligned);
    cp_async_commit();
    share_weights(weights, ds);
    add_weighted<D>(key_sum, weights, tile_q);
    __syncthreads();
    if (next < tq) load_rows<kColumns, D, THREADS>(tile_q, queries, q_pitch, next, tq, d, aligned);
    cp_async_commit();
  }

  float* key_rows = head_rows(dk, dk_pitch, tk, d);
  float* value_rows = head_rows(dv, dv_pitch, tk, d);
#pragma unroll
  for (int r = 0; r < 4; r++) {
    if (j + r < tk) {
      store_row<D>(key_rows + row_start(j + r, dk_pitch), key_sum[r], scale, d);
      store_row<D>(value_rows + row_start(j + r, dv_pitch), value_sum[r], 1.0f, d);
    }
  }
}

KERNEL(attention_dq_tiled_32_f32, 128, 3, INPUT_PARAMETERS(float), float* __restrict__ dq, int dq_pitch, int aligned) {
  attention_dq_tiled<32>(INPUT_ARGUMENTS, dq, dq_pitch, aligned);
}

KERNEL(attention_dq_tiled_64_f32, 128, 2, INPUT_PARAMETERS(float), float* __restrict__ dq, int dq_pitch, int aligned) {
  attention_dq_tiled<64>(INPUT_ARGUMENTS, dq, dq_pitch, aligned);
}

KERNEL(attention_dq_tiled_128_f32, 64, 2, INPUT_PARAMETERS(float), float* __restrict__ dq, int dq_pitch, int aligned) {
  attention_dq_tiled<128>(INPUT_ARGUMENTS, dq, dq_pitch, aligned);
}

KERNEL(attention_dkdv_tiled_32_f32, 128, 3, INPUT_PARAMETERS(float), float* __restrict__ dk, int dk_pitch,
       float* __restrict__ dv, int dv_pitch, int aligned) {
  attention_dkdv_tiled<32>(INPUT_ARGUMENTS, dk, dk_pitch, dv, dv_pitch, aligned);
}

KERNEL(attention_dkdv_tiled_64_f32, 128, 2, INPUT_PARAMETERS(float), float* __restrict__ dk, int dk_pitch,
       float* __restrict__ dv, int dv_pitch, int aligned) {
  attention_dkdv_tiled<64>(INPUT_ARGUMENTS, dk, dk_pitch, dv, dv_pitch, aligned);
}

KERNEL(attention_dkdv_tiled_128_f32, 64, 2, INPUT_PARAMETERS(float), float* __restrict__ dk, int dk_pitch,
       float* __restrict__ dv, int dv_pitch, int aligned) {
  attention_dkdv_tiled<128>(INPUT_ARGUMENTS, dk, dk_pitch, dv, dv_pitch, aligned);
}
