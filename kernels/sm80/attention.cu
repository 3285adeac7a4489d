// Attention in bf16 on tensor cores. The formula, the operands and the online softmax are those of attention.cu; sums
// and lse are in f32.
//
// Roofline. 4 Tq Tk D FLOPs for 2 (2 Tq + 2 Tk) D bytes per head: T / 2 FLOPs per byte, where a GPU balances at some
// 150 to 300. So it is compute-bound from about 512 tokens on, and below that bound by how well copies overlap. Besides
// the products every score costs an exponential. An SM computes 16 of these per clock, while its tensor cores do the 4
// D FLOPs of 8 to 16 scores at D = 64, so the rest of the softmax must be short. With dropout, Philox (one call for
// four scores, some 80 integer instructions) outweighs both.
//
//   flash   A block per 128 queries, 32 per warp: each ldmatrix of K or V feeds two mma, for the two groups of 16 rows;
//           otherwise shared memory would be as busy as the tensor cores. Scores never leave their registers: the
//           result of the first product, packed, is the left operand of the second. There are two tiles of keys and two
//           of values: one is used while the next one arrives. Masks (causal, key mask, the end of the sequence) are
//           applied only to tiles in which some pair may be masked, and a warp skips tiles that none of its queries
//           sees.
//
// The sum of a row's exponentials is of f32 values, their product with V of exponentials rounded to bf16. Dropout
// multiplies by 1 / (1 - p) at the end, in f32.
#include "common/attention_sm80.cuh"

template <int WIDTH, int KEYS, bool IN_REGISTERS>
DEVICE void attention_flash(FORWARD_PARAMETERS(bf16)) {
  constexpr int M = 2, ROWS = 16 * M * kWarps, N = KEYS / 8;
  SMEM_DYN(bf16, tile_q);
  // Two tiles of K and two of V.
  bf16* streamed = tile_q + ROWS * WIDTH;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const bf16* keys = head_rows(k, k_pitch, tk, d);
  const bf16* values = head_rows(v, v_pitch, tk, d);
  // With a causal mask the last queries see the most keys. They are processed first, so that no long block runs alone
  // at the end.
  const int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int seen = keys_until(pairs, min(first + ROWS, tq) - 1);
  const int warp_row = first + threadIdx.x / 32 * (16 * M);
  const int until = warp_row < tq ? keys_until(pairs, warp_row + 16 * M - 1) : 0;
  const float scale_log2 = scale * kLog2E;

  float m[M][2], l[M][2];
  float sum[M][WIDTH / 8][4] = {};
#pragma unroll
  for (int i = 0; i < M; i++) {
#pragma unroll
    for (int r = 0; r < 2; r++) m[i][r] = -INFINITY, l[i][r] = 0.0f;
  }

  load_tile<ROWS, WIDTH>(tile_q, head_rows(q, q_pitch, tq, d), q_pitch, first, tq, d);
  load_tile<KEYS, WIDTH>(streamed, keys, k_pitch, 0, tk, d);
  load_tile<KEYS, WIDTH>(streamed + KEYS * WIDTH, values, v_pitch, 0, tk, d);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  OperandA<WIDTH, M, IN_REGISTERS> queries;
  load_operand_a(queries, tile_q + (warp_row - first) * WIDTH);

  for (int start = 0, stage = 0; start < seen; start += KEYS, stage ^= 1) {
    const bf16* tile_k = streamed + stage * (2 * KEYS * WIDTH);
    const bf16* tile_v = tile_k + KEYS * WIDTH;
    if (start + KEYS < seen) {
      bf16* next = streamed + (stage ^ 1) * (2 * KEYS * WIDTH);
      load_tile<KEYS, WIDTH>(next, keys, k_pitch, start + KEYS, tk, d);
      load_tile<KEYS, WIDTH>(next + KEYS * WIDTH, values, v_pitch, start + KEYS, tk, d);
      cp_async_commit();
    }
    if (start < until) {
      // Computed before the scores take their registers.
      unsigned keeps[KEYS / 32];
      if (pairs.drop.threshold) {
#pragma unroll
        for (int h = 0; h < KEYS / 32; h++) keeps[h] = keeps_of_queries<M>(pairs, warp_row, start + 32 * h);
      }
      float s[M][N][4];
      multiply_rows(s, queries, tile_k, 0);

      // Some pair may be masked: by the end of the sequence, by the key mask, or because the first query does not see the
      // last key.
      if (pairs.key_mask || start + KEYS > tk || start + KEYS - 1 > warp_row + pairs.ahead) {
#pragma unroll
        for (int h = 0; h < KEYS / 32; h++) {
          const unsigned valid = valid_keys(pairs, start + 32 * h);
#pragma unroll
          for (int i = 0; i < M; i++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
              const int query = warp_row + 16 * i + 8 * r + lane_row();
              const unsigned bits = visible_keys(pairs, valid, query, start + 32 * h) >> lane_column();
#pragma unroll
              for (int c = 0; c < 8; c++) {
                if (!(bits >> (c / 2 * 8 + c % 2) & 1)) s[i][4 * h + c / 2][2 * r + c % 2] = -INFINITY;
              }
            }
          }
        }
      }

#pragma unroll
      for (int i = 0; i < M; i++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
          float new_max = s[i][0][2 * r];
#pragma unroll
          for (int n = 0; n < N; n++) new_max = fmaxf(new_max, fmaxf(s[i][n][2 * r], s[i][n][2 * r + 1]));
          new_max = fmaxf(m[i][r], warp_max<4>(new_max) * scale_log2);
          const float top = finite(new_max), rescale = exp2_approx(m[i][r] - top);
          m[i][r] = new_max;
          // Each of the row's four lanes sums its own columns; their sums are combined at the end.
          float total = l[i][r] * rescale;
#pragma unroll
          for (int n = 0; n < N; n++) {
#pragma unroll
            for (int c = 2 * r; c < 2 * r + 2; c++) {
              s[i][n][c] = exp2_approx(s[i][n][c] * scale_log2 - top);
              total += s[i][n][c];
            }
          }
          l[i][r] = total;
#pragma unroll
          for (int n = 0; n < WIDTH / 8; n++) {
            sum[i][n][2 * r] *= rescale;
            sum[i][n][2 * r + 1] *= rescale;
          }
        }
      }

      if (pairs.drop.threshold) {
#pragma unroll
        for (int h = 0; h < KEYS / 32; h++) {
#pragma unroll
          for (int i = 0; i < 2 * M; i++) {
#pragma unroll
            for (int c = 0; c < 8; c++) {
              if (!(keeps[h] >> (c / 2 * 8 + 2 * i + c % 2) & 1)) s[i / 2][4 * h + c / 2][i % 2 * 2 + c % 2] = 0.0f;
            }
          }
        }
      }
      unsigned weights[KEYS / 16][M][4];
      pack_weights(weights, s);
      add_products<WIDTH>(sum, weights, tile_v, 0);
    }
    // The next tile has arrived, and this one is no longer needed.
    cp_async_wait<0>();
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < M; i++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int query = warp_row + 16 * i + 8 * r + lane_row();
      const float total = warp_sum<4>(l[i][r]);
      if (lane_column() == 0 && query < tq) lse[head_number() * tq + query] = (m[i][r] + log2f(total)) * kLn2;
      l[i][r] = total > 0.0f ? pairs.drop.scale / total : 0.0f;
    }
  }
  store_tile<WIDTH>(head_rows(out, out_pitch, tq, d), out_pitch, warp_row, tq, d, sum, l);
}

KERNEL(attention_flash_32_bf16, 128, 3, FORWARD_PARAMETERS(bf16)) {
  attention_flash<32, 64, true>(FORWARD_ARGUMENTS);
}

KERNEL(attention_flash_64_bf16, 128, 2, FORWARD_PARAMETERS(bf16)) {
  attention_flash<64, 64, true>(FORWARD_ARGUMENTS);
}

KERNEL(attention_flash_80_bf16, 128, 2, FORWARD_PARAMETERS(bf16)) {
  attention_flash<80, 32, true>(FORWARD_ARGUMENTS);
}

KERNEL(attention_flash_96_bf16, 128, 2, FORWARD_PARAMETERS(bf16)) {
  attention_flash<96, 32, false>(FORWARD_ARGUMENTS);
}

// Tiles of 32 keys: with 64, one block would fill the shared memory of an sm_80.
KERNEL(attention_flash_128_bf16, 128, 2, FORWARD_PARAMETERS(bf16)) {
  attention_flash<128, 32, false>(FORWARD_ARGUMENTS);
}
