// The gradient of attention in bf16 on tensor cores. The formulas and operands are those of attention_backward.cu.
// Sums, lse and delta are in f32; P and dS are rounded to bf16 before they are multiplied.
//
// Every output has one owner: a kernel with a block per tile of queries computes delta and dQ, then one with a block
// per tile of keys computes dK and dV. Both compute scores and dP, 14 Tq Tk D FLOPs instead of 10. This is the price of
// adding in a fixed order without atomics, and without a second pass over an f32 dQ in memory.
//
// Roofline. 14 Tq Tk D FLOPs for 2 (5 Tq + 6 Tk) D bytes per head: compute-bound from some hundred tokens on, like the
// forward pass, with two exponentials per score (one in each kernel) instead of one.
//
//   flash   A warp owns 32 rows (16 from D = 80 on, where the sums of 32 rows would not fit in registers), and iterates
//           over the others 32 or 16 at a time, as registers allow. The kernel for keys computes S^T = K Q^T and dP^T =
//           V dout^T, so that in both kernels the results of the first products, packed, are the left operands of the
//           second ones. Streamed operands have two tiles each: one is used while the next one arrives. Groups that a
//           warp's rows do not see are skipped. delta, the row sum of dout out, is computed with dQ, which reads dout
//           anyway.
//
// From D = 80 on, and for dK and dV from 64 on, shared memory is the bottleneck, not the tensor cores: ldmatrix_x4
// takes 16 clocks of a quarter SM's share of the shared memory bandwidth, while an mma takes 8 clocks of the quarter's
// tensor core. (dK and dV at D = 64 take 512 clocks of each; at D = 128 they take 1280 clocks of shared memory to 1024,
// and dQ 1024 to 768.)
#include "common/attention_sm80.cuh"

// ---- dQ -----------------------------------------------------------------------------------------------------------

// Keys that a warp processes at a time: as many as a word has bits.
constexpr int kGroup = 32;

#define DQ_PARAMETERS                                                                                                  \
  const bf16 *__restrict__ q, int q_pitch, const bf16 *__restrict__ k, int k_pitch, const bf16 *__restrict__ v,        \
      int v_pitch, const bf16 *__restrict__ dout, int dout_pitch, const bf16 *__restrict__ out, int out_pitch,         \
      const float *__restrict__ lse, float *__restrict__ delta, PAIR_PARAMETERS, float scale, int d,                   \
      bf16 *__restrict__ dq, int dq_pitch
#define DQ_ARGUMENTS                                                                                                   \
  q, q_pitch, k, k_pitch, v, v_pitch, dout, dout_pitch, out, out_pitch, lse, delta, PAIR_ARGUMENTS, scale, d, dq,      \
      dq_pitch

template <int WIDTH, int M, int KEYS, bool IN_REGISTERS>
DEVICE void attention_dq_flash(DQ_PARAMETERS) {
  constexpr int ROWS = 16 * M * kWarps;
  SMEM_DYN(bf16, tile_q);
  bf16* tile_dout = tile_q + ROWS * WIDTH;
  // Two tiles of K and two of V.
  bf16* streamed = tile_dout + ROWS * WIDTH;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const bf16* keys = head_rows(k, k_pitch, tk, d);
  const bf16* values = head_rows(v, v_pitch, tk, d);
  const bf16* gradients = head_rows(dout, dout_pitch, tq, d);
  // With a causal mask the last queries see the most keys, so they are processed first.
  const int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int seen = keys_until(pairs, min(first + ROWS, tq) - 1);
  const int warp_row = first + threadIdx.x / 32 * (16 * M);
  const int until = warp_row < tq ? keys_until(pairs, warp_row + 16 * M - 1) : 0;
  const float scale_log2 = scale * kLog2E;

  load_tile<ROWS, WIDTH>(tile_q, head_rows(q, q_pitch, tq, d), q_pitch, first, tq, d);
  load_tile<ROWS, WIDTH>(tile_dout, gradients, dout_pitch, first, tq, d);
  load_tile<KEYS, WIDTH>(streamed, keys, k_pitch, 0, tk, d);
  load_tile<KEYS, WIDTH>(streamed + KEYS * WIDTH, values, v_pitch, 0, tk, d);
  cp_async_commit();

  float log_sum[M][2], row_delta[M][2];
  float sum[M][WIDTH / 8][4] = {};
  row_deltas<M>(row_delta, gradients, dout_pitch, head_rows(out, out_pitch, tq, d), out_pitch, warp_row, tq, d);
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int i = warp_row + 16 * m + 8 * r + lane_row();
      log_sum[m][r] = i < tq ? lse[head_number() * tq + i] * kLog2E : 0.0f;
      if (lane_column() == 0 && i < tq) delta[head_number() * tq + i] = row_delta[m][r];
    }
  }

  cp_async_wait<0>();
  __syncthreads();
  OperandA<WIDTH, M, true> left_q;
  OperandA<WIDTH, M, IN_REGISTERS> left_dout;
  load_operand_a(left_q, tile_q + (warp_row - first) * WIDTH);
  load_operand_a(left_dout, tile_dout + (warp_row - first) * WIDTH);

  for (int tile = 0, stage = 0; tile < seen; tile += KEYS, stage ^= 1) {
    const bf16* tile_k = streamed + stage * (2 * KEYS * WIDTH);
    const bf16* tile_v = tile_k + KEYS * WIDTH;
    if (tile + KEYS < seen) {
      bf16* next = streamed + (stage ^ 1) * (2 * KEYS * WIDTH);
      load_tile<KEYS, WIDTH>(next, keys, k_pitch, tile + KEYS, tk, d);
      load_tile<KEYS, WIDTH>(next + KEYS * WIDTH, values, v_pitch, tile + KEYS, tk, d);
      cp_async_commit();
    }
#pragma unroll 1
    for (int start = tile; start < min(tile + KEYS, until); start += kGroup) {
      unsigned keeps = 0;
      if (pairs.drop.threshold) keeps = keeps_of_queries<M>(pairs, warp_row, start);
      float p[M][4][4], ds[M][4][4];
      multiply_rows(p, left_q, tile_k, start - tile);
#pragma unroll
      for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
          for (int i = 0; i < 4; i++) p[m][n][i] = exp2_approx(p[m][n][i] * scale_log2 - log_sum[m][i / 2]);
        }
      }
      // Some pair may be masked: by the end of the sequence, by the key mask, or because the first query does not see the
      // last key.
      if (pairs.key_mask || start + kGroup > tk || start + kGroup - 1 > warp_row + pairs.ahead) {
        const unsigned valid = valid_keys(pairs, start);
#pragma unroll
        for (int i = 0; i < 2 * M; i++) {
          const unsigned bits = visible_keys(pairs, valid, warp_row + 8 * i + lane_row(), start) >> lane_column();
#pragma unroll
          for (int c = 0; c < 8; c++) {
            if (!(bits >> (c / 2 * 8 + c % 2) & 1)) p[i / 2][c / 2][i % 2 * 2 + c % 2] = 0.0f;
          }
        }
      }
      multiply_rows(ds, left_dout, tile_v, start - tile);
      if (pairs.drop.threshold) {
#pragma unroll
        for (int i = 0; i < 2 * M; i++) {
#pragma unroll
          for (int c = 0; c < 8; c++) {
            const bool keep = keeps >> (c / 2 * 8 + 2 * i + c % 2) & 1;
            ds[i / 2][c / 2][i % 2 * 2 + c % 2] *= keep ? pairs.drop.scale : 0.0f;
          }
        }
      }
#pragma unroll
      for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < 4; n++) {
#pragma unroll
          for (int i = 0; i < 4; i++) ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - row_delta[m][i / 2]);
        }
      }
      unsigned weights[2][M][4];
      pack_weights(weights, ds);
      add_products<WIDTH>(sum, weights, tile_k, start - tile);
    }
    // The next tile has arrived, and this one is no longer needed.
    cp_async_wait<0>();
    __syncthreads();
  }

#pragma unroll
  for (int m = 0; m < M; m++) row_delta[m][0] = row_delta[m][1] = scale;
  store_tile<WIDTH>(head_rows(dq, dq_pitch, tq, d), dq_pitch, warp_row, tq, d, sum, row_delta);
}

KERNEL(attention_dq_flash_32_bf16, 128, 3, DQ_PARAMETERS) { attention_dq_flash<32, 2, 64, false>(DQ_ARGUMENTS); }
KERNEL(attention_dq_flash_64_bf16, 128, 2, DQ_PARAMETERS) { attention_dq_flash<64, 2, 64, false>(DQ_ARGUMENTS); }
KERNEL(attention_dq_flash_80_bf16, 128, 2, DQ_PARAMETERS) { attention_dq_flash<80, 1, 64, true>(DQ_ARGUMENTS); }
KERNEL(attention_dq_flash_96_bf16, 128, 2, DQ_PARAMETERS) { attention_dq_flash<96, 1, 64, true>(DQ_ARGUMENTS); }
KERNEL(attention_dq_flash_128_bf16, 128, 2, DQ_PARAMETERS) { attention_dq_flash<128, 1, 32, true>(DQ_ARGUMENTS); }

// ---- dK and dV ----------------------------------------------------------------------------------------------------

// Starts to copy lse and delta of queries `first` to `first` + QUERIES - 1, one after the other; zeros from `count` on.
// With these, and with dout zero, such a query adds nothing: P is 1, and dS is 0.
template <int QUERIES>
DEVICE void load_statistics(float* shared, const float* __restrict__ lse, const float* __restrict__ delta, int first,
                            int count) {
  if (threadIdx.x < 2 * QUERIES) {
    const int n = threadIdx.x % QUERIES;
    const bool valid = first + n < count;
    cp_async_4(shared + threadIdx.x, (threadIdx.x < QUERIES ? lse : delta) + (valid ? first + n : 0), valid);
  }
}

// Tiles of scores are transposed: rows are keys, columns GROUP queries. A key that is masked, or beyond the end, is
// computed like any other, since it only affects its own rows of the sums; these are set to zero when they are written.
template <int WIDTH, int M, int QUERIES, int GROUP, bool K_IN_REGISTERS, bool V_IN_REGISTERS>
DEVICE void attention_dkdv_flash(INPUT_PARAMETERS(bf16), bf16* __restrict__ dk, int dk_pitch, bf16* __restrict__ dv,
                                 int dv_pitch) {
  constexpr int ROWS = 16 * M * kWarps, N = GROUP / 8;
  SMEM_DYN(bf16, tile_k);
  bf16* tile_v = tile_k + ROWS * WIDTH;
  // Two tiles of q and of dout, and two of lse and of delta.
  bf16* streamed = tile_v + ROWS * WIDTH;
  float* statistics = reinterpret_cast<float*>(streamed + 4 * QUERIES * WIDTH);
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const bf16* queries = head_rows(q, q_pitch, tq, d);
  const bf16* gradients = head_rows(dout, dout_pitch, tq, d);
  const float* head_lse = lse + head_number() * tq;
  const float* head_delta = delta + head_number() * tq;
  const int first = blockIdx.x * ROWS;
  const int warp_row = first + threadIdx.x / 32 * (16 * M);
  // Earlier queries see none of the block's keys, or of the warp's.
  const int begin = max(0, first - pairs.ahead) / QUERIES * QUERIES;
  const int from = warp_row < tk ? warp_row - pairs.ahead : tq;
  const float scale_log2 = scale * kLog2E;

  load_tile<ROWS, WIDTH>(tile_k, head_rows(k, k_pitch, tk, d), k_pitch, first, tk, d);
  load_tile<ROWS, WIDTH>(tile_v, head_rows(v, v_pitch, tk, d), v_pitch, first, tk, d);
  load_tile<QUERIES, WIDTH>(streamed, queries, q_pitch, begin, tq, d);
  load_tile<QUERIES, WIDTH>(streamed + QUERIES * WIDTH, gradients, dout_pitch, begin, tq, d);
  load_statistics<QUERIES>(statistics, head_lse, head_delta, begin, tq);
  cp_async_commit();
  float key_sum[M][WIDTH / 8][4] = {}, value_sum[M][WIDTH / 8][4] = {};
  cp_async_wait<0>();
  __syncthreads();
  OperandA<WIDTH, M, K_IN_REGISTERS> left_k;
  OperandA<WIDTH, M, V_IN_REGISTERS> left_v;
  load_operand_a(left_k, tile_k + (warp_row - first) * WIDTH);
  load_operand_a(left_v, tile_v + (warp_row - first) * WIDTH);

  for (int tile = begin, stage = 0; tile < tq; tile += QUERIES, stage ^= 1) {
    const bf16* tile_q = streamed + stage * (2 * QUERIES * WIDTH);
    const bf16* tile_dout = tile_q + QUERIES * WIDTH;
    const float* tile_lse = statistics + stage * (2 * QUERIES);
    if (tile + QUERIES < tq) {
      bf16* next = streamed + (stage ^ 1) * (2 * QUERIES * WIDTH);
      load_tile<QUERIES, WIDTH>(next, queries, q_pitch, tile + QUERIES, tq, d);
      load_tile<QUERIES, WIDTH>(next + QUERIES * WIDTH, gradients, dout_pitch, tile + QUERIES, tq, d);
      load_statistics<QUERIES>(statistics + (stage ^ 1) * (2 * QUERIES), head_lse, head_delta, tile + QUERIES, tq);
      cp_async_commit();
    }
#pragma unroll 1
    for (int start = tile; start < min(tile + QUERIES, tq); start += GROUP) {
      if (start + GROUP <= from) continue;
      unsigned keeps = 0;
      if (pairs.drop.threshold) keeps = keeps_of_keys<M, GROUP>(pairs, warp_row, start);
      float p[M][N][4], ds[M][N][4];
      multiply_rows(p, left_k, tile_q, start - tile);
#pragma unroll
      for (int n = 0; n < N; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float log_sum = tile_lse[start - tile + 8 * n + lane_column() + c] * kLog2E;
#pragma unroll
          for (int i = 0; i < 2 * M; i++) {
            float& x = p[i / 2][n][i % 2 * 2 + c];
            x = exp2_approx(x * scale_log2 - log_sum);
          }
        }
      }
      // The first query does not see the last key.
      if (start + pairs.ahead < warp_row + 16 * M - 1) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
          for (int c = 0; c < 2; c++) {
            const int visible = start + 8 * n + lane_column() + c + pairs.ahead - warp_row - lane_row();
#pragma unroll
            for (int i = 0; i < 2 * M; i++) {
              if (visible < 8 * i) p[i / 2][n][i % 2 * 2 + c] = 0.0f;
            }
          }
        }
      }
      multiply_rows(ds, left_v, tile_dout, start - tile);
      unsigned weights[N / 2][M][4];
      pack_weights(weights, p);
      if (pairs.drop.threshold) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
          for (int i = 0; i < 2 * M; i++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
              ds[i / 2][n][i % 2 * 2 + c] *= keeps >> (8 * i + 2 * n + c) & 1 ? pairs.drop.scale : 0.0f;
            }
            // The two bits for the pair of elements that weights[n / 2][i / 2] holds.
            const unsigned both = keeps >> (8 * i + 2 * n);
            weights[n / 2][i / 2][n % 2 * 2 + i % 2] &= (both & 1 ? 0xffffu : 0u) | (both & 2 ? 0xffff0000u : 0u);
          }
        }
      }
      add_products<WIDTH>(value_sum, weights, tile_dout, start - tile);
#pragma unroll
      for (int n = 0; n < N; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const float row_delta = tile_lse[QUERIES + start - tile + 8 * n + lane_column() + c];
#pragma unroll
          for (int i = 0; i < 2 * M; i++) {
            float& x = ds[i / 2][n][i % 2 * 2 + c];
            x = p[i / 2][n][i % 2 * 2 + c] * (x - row_delta);
          }
        }
      }
      pack_weights(weights, ds);
      add_products<WIDTH>(key_sum, weights, tile_q, start - tile);
    }
    // The next tile has arrived, and this one is no longer needed.
    cp_async_wait<0>();
    __syncthreads();
  }

  float key_scale[M][2], value_scale[M][2];
#pragma unroll
  for (int i = 0; i < 2 * M; i++) {
    const bool valid_row = key_valid(pairs, warp_row + 8 * i + lane_row());
    key_scale[i / 2][i % 2] = valid_row ? scale : 0.0f;
    value_scale[i / 2][i % 2] = valid_row ? pairs.drop.scale : 0.0f;
    if (!valid_row) {
      // The sums of a masked key may be infinite.
#pragma unroll
      for (int n = 0; n < WIDTH / 8; n++) {
        key_sum[i / 2][n][i % 2 * 2] = key_sum[i / 2][n][i % 2 * 2 + 1] = 0.0f;
        value_sum[i / 2][n][i % 2 * 2] = value_sum[i / 2][n][i % 2 * 2 + 1] = 0.0f;
      }
    }
  }
  store_tile<WIDTH>(head_rows(dk, dk_pitch, tk, d), dk_pitch, warp_row, tk, d, key_sum, key_scale);
  store_tile<WIDTH>(head_rows(dv, dv_pitch, tk, d), dv_pitch, warp_row, tk, d, value_sum, value_scale);
}

// The sums of 32 keys at D = 64 leave registers for 16 queries at a time, and for K but not V.
#define DKDV_KERNEL(width, min_blocks, ...)                                                                            \
  KERNEL(attention_dkdv_flash_##width##_bf16, 128, min_blocks, INPUT_PARAMETERS(bf16), bf16* __restrict__ dk,          \
         int dk_pitch, bf16* __restrict__ dv, int dv_pitch) {                                                          \
    attention_dkdv_flash<width, __VA_ARGS__>(INPUT_ARGUMENTS, dk, dk_pitch, dv, dv_pitch);                             \
  }

DKDV_KERNEL(32, 3, 2, 64, 16, true, true)
DKDV_KERNEL(64, 2, 2, 64, 16, true, false)
DKDV_KERNEL(80, 2, 1, 64, 32, true, true)
DKDV_KERNEL(96, 2, 1, 64, 32, true, true)
DKDV_KERNEL(128, 2, 1, 32, 32, false, false)
