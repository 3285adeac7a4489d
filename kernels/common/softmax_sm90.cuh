// The softmax of scores as a warpgroup's product leaves them in registers (ptx/wgmma.cuh): a lane has KEYS / 4 of each of two rows,
// and the four lanes of a row meet by shuffles. Exponentials are powers of 2, of scores in units of log2 e.
#pragma once

#include "attention_sm90.cuh"

// The highest of row r's scores in the lane's columns.
template <int KEYS>
DEVICE float highest(const float (&s)[KEYS / 2], int r) {
  float high = s[2 * r];
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++) high = fmaxf(high, fmaxf(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]));
  return high;
}

// Row r's scores times `unit` to exponentials, in place, of what they are below `top`. Adds those in the lane's columns to `total`;
// the row's four lanes meet at the end.
template <int KEYS>
DEVICE float exponentials(float (&s)[KEYS / 2], int r, float unit, float top, float total) {
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
    for (int i = 4 * n + 2 * r; i < 4 * n + 2 * r + 2; i++) {
      s[i] = exp2_approx(s[i] * unit - top);
      total += s[i];
    }
  }
  return total;
}

// Drops exponentials of queries `mine` to `mine` + 15 and the keys from `start` on.
template <int KEYS>
DEVICE void drop_scores(float (&s)[KEYS / 2], const Pairs& pairs, int mine, int start) {
#pragma unroll
  for (int h = 0; h < KEYS / 32; h++) {
    const unsigned keeps = keeps_of_queries<1>(pairs, mine, start + 32 * h);
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int c = 0; c < 8; c++) {
        if (!(keeps >> (c / 2 * 8 + 2 * r + c % 2) & 1)) s[16 * h + c / 2 * 4 + 2 * r + c % 2] = 0.0f;
      }
    }
  }
}

// Of the lane's two rows the highest scores are known, in units of log2 e, and the sums of exponentials in its columns: writes lse,
// and says what makes outputs of their sums.
DEVICE void end_softmax(float (&scales)[2], const float (&high)[2], const float (&totals)[2], const Pairs& pairs,
                        int mine, float* __restrict__ lse) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int query = mine + 8 * r + lane_row();
    const float total = warp_sum<4>(totals[r]);
    if (lane_column() == 0 && query < pairs.tq) lse[pairs.head * pairs.tq + query] = (high[r] + log2f(total)) * kLn2;
    scales[r] = total > 0.0f ? pairs.drop.scale / total : 0.0f;
  }
}
