// The epilogue of a warp's sums, in the layout of the tensor cores, through shared memory: lanes then write rows 16
// bytes at a time.
#pragma once

#include "epilogue.cuh"

// The offset of an output in a warp's WIDTH columns of shared memory. A row consists of groups of 8 columns (32 bytes).
// Group j of row r is stored at j ^ r (modulo the groups of a row), and its halves are swapped in the case given below.
// Banks:
//   - Sums are written in pairs, by 16 lanes at a time: 4 neighbouring rows, 8 columns of one group. The four groups
//     are stored at j ^ 0 .. 3, which differ modulo 4, so they are in different banks. Swapped halves stay within a
//     group.
//   - With 4 columns per lane (float), 8 lanes read at a time: 4 neighbouring groups of a row, or all groups of a row.
//   - With 8 columns per lane (bf16), each lane reads two halves, and 8 lanes read at a time: one half of each of 8
//     groups, which cover the banks twice. For the second half of them (groups 4 to 7, or the second row, where a row
//     has 4 groups) the halves are swapped.
template <int WIDTH>
DEVICE int output_at(int r, int c) {
  constexpr int kGroups = WIDTH / 8;
  static_assert(kGroups == 4 || kGroups == 8, "the swizzle is defined for 4 or 8 groups per row");
  const int group = c >> 3 ^ (r & kGroups - 1);
  const int half = (c >> 2 & 1) ^ (kGroups == 8 ? group >> 2 : r & 1);
  return r * WIDTH + group * 8 + half * 4 + (c & 3);
}

// Stages a warp's sums in its own part of shared memory, so that each lane writes 16 bytes next to those of its
// neighbours, and so that the code of the epilogue with its exponentials is there only once.
template <int HEIGHT, int WIDTH>
DEVICE void stage_sums(float* outputs, const float (&z)[HEIGHT / 16][WIDTH / 8][4]) {
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

// ROWS: rows that a lane processes at a time, each with 4 to 12 registers of epilogue operands.
template <int HEIGHT, int WIDTH, int ROWS, class Out>
DEVICE void write_sums(const Epilogue<bf16, Out>& epilogue, const float* outputs, int row, int column, int m, int n) {
  constexpr int kVector = Vec<Out>::kSize, kLanes = WIDTH / kVector;
  const int lane = threadIdx.x % 32;
  const int c = lane % kLanes * kVector, first = column + c;
  const bool vectorized = vectorizable(epilogue) && first + kVector <= n;
  Vec<Out> bias = {};
  if constexpr (sizeof(Out) == sizeof(bf16)) {
    if (vectorized && epilogue.bias) bias = load(epilogue.bias + first);
  }
  constexpr int kRowStride = 32 / kLanes;
  static_assert(HEIGHT % (ROWS * kRowStride) == 0, "all lanes must have the same number of iterations");
  if (vectorized) {
#pragma unroll 1
    for (int r = lane / kLanes; r < HEIGHT && row + r < m; r += ROWS * kRowStride) {
      EpilogueOperands<Out> operands[ROWS];
      load_epilogue_operands(operands, epilogue, row + r, kRowStride, first, m);
#pragma unroll
      for (int s = 0; s < ROWS; s++) {
        const int at = r + s * kRowStride;
        if (row + at >= m) break;
        Vec<Out> vector;
#pragma unroll
        for (int q = 0; q < kVector; q += 4) {
          const Vec<float> four = load(outputs + output_at<WIDTH>(at, c + q));
#pragma unroll
          for (int e = 0; e < 4; e++) vector.v[q + e] = four.v[e];
        }
        write_out_vector(epilogue, operands[s], row + at, first, vector, bias);
      }
    }
  } else {
#pragma unroll 1
    for (int r = lane / kLanes; r < HEIGHT && row + r < m; r += kRowStride) {
#pragma unroll 1
      for (int e = 0; e < kVector && first + e < n; e++) {
        write_out(epilogue, row + r, first + e, outputs[output_at<WIDTH>(r, c + e)]);
      }
    }
  }
}
