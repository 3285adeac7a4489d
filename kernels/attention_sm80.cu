// Attention in bf16 on tensor cores. The formula, the operands and the online softmax are those of attention.cu; sums
// are in f32, and lse is.
//
// Roofline. 4 Tq Tk D FLOPs for 2 (2 Tq + 2 Tk) D bytes, per head: T / 2 FLOPs a byte, against some 150 to 300 that a
// GPU has for each: bound by arithmetic from about 512 tokens on, and below by how well copies hide. Beside the
// products every score costs an exponential, of which a multiprocessor makes 16 a clock, while its tensor cores do
// the 4 D FLOPs of 8 to 16 scores at D = 64: the rest of the softmax has to be short. With dropout Philox (a call for
// four scores, some 80 integer instructions) outweighs both.
//
//   flash   A block per 128 queries, 32 a warp: each ldmatrix of K or V feeds two mma for the two rows of 16, or else
//           shared memory would be as busy as the tensor cores. Scores never leave their registers: what the first
//           product leaves behind, packed, is the left operand of the second. Two tiles of keys and two of values:
//           one is computed with while the next arrives. What a pair needs besides (causal, key mask, the ragged end)
//           is done only in tiles where some pair does not count, and a warp leaves out tiles that none of its
//           queries sees.
//
// The sum of a row's exponentials is of f32, its product with V of exponentials rounded to bf16; dropout multiplies by
// 1 / (1 - p) at the end, in f32.
#include "common/attention_sm80.cuh"

template <int WIDTH, int KEYS, bool KEPT>
DEVICE void attention_flash(FORWARD_PARAMETERS(bf16)) {
  constexpr int M = 2, ROWS = 16 * M * kWarps, N = KEYS / 8;
  SMEM_DYN(bf16, tile_q);
  // Twice K and V.
  bf16* passing = tile_q + ROWS * WIDTH;
  const Pairs pairs = pairs_of(PAIR_ARGUMENTS);
  const bf16* keys = head_rows(k, k_pitch, tk, d);
  const bf16* values = head_rows(v, v_pitch, tk, d);
  // When causal the last queries see the most keys. They begin first, so that no long block is left over at the end.
  const int first = (gridDim.x - 1 - blockIdx.x) * ROWS;
  const int seen = keys_until(pairs, min(first + ROWS, tq) - 1);
  const int mine = first + threadIdx.x / 32 * (16 * M);
  const int until = mine < tq ? keys_until(pairs, mine + 16 * M - 1) : 0;
  const float unit = scale * kLog2E;

  float m[M][2], l[M][2];
  float sum[M][WIDTH / 8][4] = {};
#pragma unroll
  for (int i = 0; i < M; i++) {
#pragma unroll
    for (int r = 0; r < 2; r++) m[i][r] = -INFINITY, l[i][r] = 0.0f;
  }

  load_tile<ROWS, WIDTH>(tile_q, head_rows(q, q_pitch, tq, d), q_pitch, first, tq, d);
  load_tile<KEYS, WIDTH>(passing, keys, k_pitch, 0, tk, d);
  load_tile<KEYS, WIDTH>(passing + KEYS * WIDTH, values, v_pitch, 0, tk, d);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  Left<WIDTH, M, KEPT> queries;
  take_left(queries, tile_q + (mine - first) * WIDTH);

  for (int start = 0, stage = 0; start < seen; start += KEYS, stage ^= 1) {
    const bf16* tile_k = passing + stage * (2 * KEYS * WIDTH);
    const bf16* tile_v = tile_k + KEYS * WIDTH;
    if (start + KEYS < seen) {
      bf16* next = passing + (stage ^ 1) * (2 * KEYS * WIDTH);
      load_tile<KEYS, WIDTH>(next, keys, k_pitch, start + KEYS, tk, d);
      load_tile<KEYS, WIDTH>(next + KEYS * WIDTH, values, v_pitch, start + KEYS, tk, d);
      cp_async_commit();
    }
    if (start < until) {
      // Before the scores take their registers.
      unsigned keeps[KEYS / 32];
      if (pairs.drop.threshold) {
#pragma unroll
        for (int h = 0; h < KEYS / 32; h++) keeps[h] = keeps_of_queries<M>(pairs, mine, start + 32 * h);
      }
      float s[M][N][4];
      multiply_rows(s, queries, tile_k, 0);

      // Some pair does not count: of the ragged end, of the mask, or beyond what the first query sees.
      if (pairs.key_mask || start + KEYS > tk || start + KEYS - 1 > mine + pairs.ahead) {
#pragma unroll
        for (int h = 0; h < KEYS / 32; h++) {
          const unsigned counting = counting_keys(pairs, start + 32 * h);
#pragma unroll
          for (int i = 0; i < M; i++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
              const int query = mine + 16 * i + 8 * r + lane_row();
              const unsigned bits = seen_keys(pairs, counting, query, start + 32 * h) >> lane_column();
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
          float higher = s[i][0][2 * r];
#pragma unroll
          for (int n = 0; n < N; n++) higher = fmaxf(higher, fmaxf(s[i][n][2 * r], s[i][n][2 * r + 1]));
          higher = fmaxf(m[i][r], warp_max<4>(higher) * unit);
          const float top = finite(higher), shrink = exp2_approx(m[i][r] - top);
          m[i][r] = higher;
          // Each of the row's four lanes sums its own columns; they meet at the end.
          float total = l[i][r] * shrink;
#pragma unroll
          for (int n = 0; n < N; n++) {
#pragma unroll
            for (int c = 2 * r; c < 2 * r + 2; c++) {
              s[i][n][c] = exp2_approx(s[i][n][c] * unit - top);
              total += s[i][n][c];
            }
          }
          l[i][r] = total;
#pragma unroll
          for (int n = 0; n < WIDTH / 8; n++) {
            sum[i][n][2 * r] *= shrink;
            sum[i][n][2 * r + 1] *= shrink;
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
    // The next tile is there, and this one done with.
    cp_async_wait<0>();
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < M; i++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int query = mine + 16 * i + 8 * r + lane_row();
      const float total = warp_sum<4>(l[i][r]);
      if (lane_column() == 0 && query < tq) lse[head_number() * tq + query] = (m[i][r] + log2f(total)) * kLn2;
      l[i][r] = total > 0.0f ? pairs.drop.scale / total : 0.0f;
    }
  }
  store_tile<WIDTH>(head_rows(out, out_pitch, tq, d), out_pitch, mine, tq, d, sum, l);
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
