// Shared by the attention kernels on tensor cores: masks as bits, dropout for the pairs of a warp, and delta of its
// queries.
//
// A warp has tiles of scores of 16 M rows. In each 16 x 8 of them a lane holds rows lane / 4 and lane / 4 + 8 and
// columns 2 (lane % 4) and 2 (lane % 4) + 1, as mma and wgmma leave them (ptx/).
#pragma once

#include "attention.cuh"

DEVICE int lane_number() { return threadIdx.x % 32; }
// The first of the lane's rows in a tile of 16 rows, and the first of its columns in a tile of 8 columns.
DEVICE int lane_row() { return lane_number() / 4; }
DEVICE int lane_column() { return lane_number() % 4 * 2; }

// ---- Pairs --------------------------------------------------------------------------------------------------------

// The valid keys among the 32 from `start` on (inside the sequence and not masked): bit n is key start + n.
DEVICE unsigned valid_keys(const Pairs& pairs, int start) {
  return __ballot_sync(kAllLanes, key_valid(pairs, start + lane_number()));
}

// A mask of the lowest n bits.
DEVICE unsigned low_bits(int n) { return n >= 32 ? 0xffffffffu : (1u << max(n, 0)) - 1; }

// The keys that query i sees, among the 32 from `start` on of which `valid` are valid.
DEVICE unsigned visible_keys(const Pairs& pairs, unsigned valid, int i, int start) {
  return valid & low_bits(i + pairs.ahead + 1 - start);
}

// ---- Dropout ------------------------------------------------------------------------------------------------------
//
// One call of Philox decides four neighbours in a row of P, of which a lane holds two. So each lane decides for others
// as well, and the lanes exchange bits by shuffles: 8 calls for 32 elements. Where a row does not begin at a block of
// four there is a ninth call.

// One bit for each of COUNT elements from `index` on: whether dropout keeps it.
template <int COUNT>
DEVICE unsigned keep_bits(const Dropout& drop, unsigned long long index) {
  const unsigned shift = index % 4;
  unsigned long long bits = 0;
#pragma unroll 2
  for (unsigned n = 0; 4 * n < COUNT + shift; n++) {
    const uint4 words = dropout_words(drop, index / 4 + n);
    const unsigned four = (words.x >= drop.threshold ? 1u : 0u) | (words.y >= drop.threshold ? 2u : 0u) |
                          (words.z >= drop.threshold ? 4u : 0u) | (words.w >= drop.threshold ? 8u : 0u);
    bits |= static_cast<unsigned long long>(four) << (4 * n);
  }
  return static_cast<unsigned>(bits >> shift) & low_bits(COUNT);
}

// For queries `first` to `first` + 16 M - 1 and the 32 keys from `start` on: bit 8 n + 2 i + c is the lane's row 8 i +
// lane / 4 and key 8 n + 2 (lane % 4) + c. The four lanes of a row divide the calls among themselves.
template <int M>
DEVICE unsigned keeps_of_queries(const Pairs& pairs, int first, int start) {
  static_assert(M == 1 || M == 2);
  const int t = lane_number() % 4, row = t % (2 * M), column = M == 1 ? t / 2 * 16 : 0;
  const unsigned drawn = keep_bits<16 * M>(pairs.drop, pair_index(pairs, first + 8 * row + lane_row(), start + column));
  unsigned keeps = 0;
#pragma unroll
  for (int i = 0; i < 2 * M; i++) {
    unsigned bits = __shfl_sync(kAllLanes, drawn, i, 4);
    if constexpr (M == 1) bits |= __shfl_sync(kAllLanes, drawn, i + 2, 4) << 16;
    keeps |= (bits >> lane_column() & 0x03030303u) << (2 * i);
  }
  return keeps;
}

// For keys `first` to `first` + 16 M - 1 and GROUP queries from `start` on: bit 8 i + 2 n + c is the lane's key 8 i +
// lane / 4 and query 8 n + 2 (lane % 4) + c. Each lane draws for one query; with 16 queries, for half of its keys.
template <int M, int GROUP>
DEVICE unsigned keeps_of_keys(const Pairs& pairs, int first, int start) {
  constexpr int kBits = M * GROUP / 2;
  const int lane = lane_number(), row = lane / GROUP * kBits;
  const unsigned drawn = keep_bits<kBits>(pairs.drop, pair_index(pairs, start + lane % GROUP, first + row));
  unsigned keeps = 0;
#pragma unroll
  for (int n = 0; n < GROUP / 8; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int from = 8 * n + lane_column() + c;
      unsigned bits = __shfl_sync(kAllLanes, drawn, from);
      if constexpr (GROUP == 16) bits |= __shfl_sync(kAllLanes, drawn, from + 16) << kBits;
      keeps |= (bits >> lane_row() & 0x01010101u) << (2 * n + c);
    }
  }
  return keeps;
}

// ---- Delta --------------------------------------------------------------------------------------------------------

// rowsum(dout out) of the lane's rows. The four lanes of a row compute it together and all receive it; 0 for rows from
// `count` on.
template <int M>
DEVICE void row_deltas(float (&delta)[M][2], const bf16* __restrict__ dout, int dout_pitch,
                       const bf16* __restrict__ out, int out_pitch, int first, int count, int d) {
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int i = first + 16 * m + 8 * r + lane_row();
      float sum = 0.0f;
      if (i < count) {
        for (int e = lane_number() % 4 * 8; e < d; e += 32) {
          const Vec<bf16> x = load(dout + row_start(i, dout_pitch) + e), y = load(out + row_start(i, out_pitch) + e);
#pragma unroll
          for (int n = 0; n < 8; n++) sum += x.v[n] * y.v[n];
        }
      }
      delta[m][r] = warp_sum<4>(sum);
    }
  }
}
