// The softmax of scores in the layout of wgmma (ptx/wgmma.cuh): a lane holds KEYS / 4 scores of each of two rows, and
// the four lanes of a row combine theirs by shuffles. Exponentials are powers of 2, of scores in units of log2 e.
#pragma once

#include "attention_sm90.cuh"

// The maximum of row r's scores in the lane's columns.
template <int KEYS>
DEVICE float lane_max(const float (&s)[KEYS / 2], int r) {
  float result = s[2 * r];
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++) result = fmaxf(result, fmaxf(s[4 * n + 2 * r], s[4 * n + 2 * r + 1]));
  return result;
}

// Replaces row r's scores, times `scale_log2`, by the exponentials of their differences to `top`. Returns `total` plus
// those in the lane's columns; the four lanes of the row are summed at the end.
template <int KEYS>
DEVICE float exponentials(float (&s)[KEYS / 2], int r, float scale_log2, float top, float total) {
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
    for (int i = 4 * n + 2 * r; i < 4 * n + 2 * r + 2; i++) {
      s[i] = exp2_approx(s[i] * scale_log2 - top);
      total += s[i];
    }
  }
  return total;
}

// Applies dropout to the exponentials of the 16 queries from `warp_row` on and the keys from `start` on.
template <int KEYS>
DEVICE void drop_scores(float (&s)[KEYS / 2], const Pairs& pairs, int warp_row, int start) {
#pragma unroll
  for (int h = 0; h < KEYS / 32; h++) {
    const unsigned keeps = keeps_of_queries<1>(pairs, warp_row, start + 32 * h);
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
      for (int c = 0; c < 8; c++) {
        if (!(keeps >> (c / 2 * 8 + 2 * r + c % 2) & 1)) s[16 * h + c / 2 * 4 + 2 * r + c % 2] = 0.0f;
      }
    }
  }
}

// Takes the maxima of the lane's two rows, in units of log2 e, and the sums of exponentials in its columns. Writes lse,
// and returns in `scales` the factors that turn the weighted sums of V into outputs.
DEVICE void finish_softmax(float (&scales)[2], const float (&row_max)[2], const float (&row_sum)[2], const Pairs& pairs,
                           int warp_row, float* __restrict__ lse) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int query = warp_row + 8 * r + lane_row();
    const float total = warp_sum<4>(row_sum[r]);
    if (lane_column() == 0 && query < pairs.tq) lse[pairs.head * pairs.tq + query] = (row_max[r] + log2f(total)) * kLn2;
    scales[r] = total > 0.0f ? pairs.drop.scale / total : 0.0f;
  }
}
