// A warp's sums, as the tensor cores leave them, through shared memory into rows of 16 bytes a lane, with their epilogue.
#pragma once

#include "epilogue.cuh"

// Where an output of a warp lies in its WIDTH columns of shared memory. A row is groups of 8 columns (32 bytes), of
// which group j of row r lies at j ^ r (modulo the groups of a row), and its halves are swapped where the comment says.
// Banks:
//   - sums are written in pairs, by 16 lanes at a time: 4 neighbouring rows, 8 columns of one group. The four groups
//     lie at j ^ 0 .. 3, different modulo 4, so at different banks; swapped halves stay within a group.
//   - 4 columns a lane (float) are read by 8 lanes at a time: 4 neighbouring groups of a row, or all of one.
//   - 8 columns a lane (bf16) are read in two halves, by 8 lanes at a time: one half each of 8 groups, which are twice
//     around the banks. The second time around (groups 4 to 7, or the second row, where a row has 4 groups) the halves
//     are swapped.
template <int WIDTH>
DEVICE int output_at(int r, int c) {
  constexpr int kGroups = WIDTH / 8;
  static_assert(kGroups == 4 || kGroups == 8, "see above");
  const int group = c >> 3 ^ (r & kGroups - 1);
  const int half = (c >> 2 & 1) ^ (kGroups == 8 ? group >> 2 : r & 1);
  return r * WIDTH + group * 8 + half * 4 + (c & 3);
}

// A warp's sums into its own part of shared memory, so that lanes write neighbouring columns, 16 bytes each, and so
// that the epilogue with its exponentials stands here once.
template <int HEIGHT, int WIDTH>
DEVICE void leave_sums(float* outputs, const float (&z)[HEIGHT / 16][WIDTH / 8][4]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < HEIGHT / 16; i++) {
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float* to = outputs + output_at<WIDTH>(16 * i + 8 * h + lane / 4, 8 * j + lane % 4 * 2);
        *reinterpret_cast<float2*>(to) = make_float2(z[i][j][2 * h], z[i][j][2 * h + 1]);
      }
    }
  }
  __syncwarp();
}

// ROWS: rows of a lane at a time, each with 4 to 12 registers of what surrounds it.
template <int HEIGHT, int WIDTH, int ROWS, class Out>
DEVICE void write_sums(const Epilogue<bf16, Out>& around, const float* outputs, int row, int column, int m, int n) {
  constexpr int kPiece = Vec<Out>::kSize, kLanes = WIDTH / kPiece;
  const int lane = threadIdx.x % 32;
  const int c = lane % kLanes * kPiece, here = column + c;
  const bool whole = in_pieces(around) && here + kPiece <= n;
  Vec<Out> bias = {};
  if constexpr (sizeof(Out) == sizeof(bf16)) {
    if (whole && around.bias) bias = load(around.bias + here);
  }
  constexpr int kApart = 32 / kLanes;
  static_assert(HEIGHT % (ROWS * kApart) == 0, "whole rounds");
  if (whole) {
#pragma unroll 1
    for (int r = lane / kLanes; r < HEIGHT && row + r < m; r += ROWS * kApart) {
      Around<Out> near[ROWS];
      load_around(near, around, row + r, kApart, here, m);
#pragma unroll
      for (int s = 0; s < ROWS; s++) {
        const int at = r + s * kApart;
        if (row + at >= m) break;
        Vec<Out> piece;
#pragma unroll
        for (int q = 0; q < kPiece; q += 4) {
          const Vec<float> four = load(outputs + output_at<WIDTH>(at, c + q));
#pragma unroll
          for (int e = 0; e < 4; e++) piece.v[q + e] = four.v[e];
        }
        finish(around, near[s], row + at, here, piece, bias);
      }
    }
  } else {
#pragma unroll 1
    for (int r = lane / kLanes; r < HEIGHT && row + r < m; r += kApart) {
#pragma unroll 1
      for (int e = 0; e < kPiece && here + e < n; e++) {
        write_out(around, row + r, here + e, outputs[output_at<WIDTH>(r, c + e)]);
      }
    }
  }
}
