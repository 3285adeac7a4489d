// Shared by the attention kernels that use mma: bf16 tiles in shared memory, and mma operands loaded from them.
//
// A block has four warps. A warp owns 16 M rows (queries, or keys) and computes their products with all of a tile, so
// that no data passes between warps. In the output of mma a lane holds, of every 16 x 8 tile, rows lane / 4 and lane /
// 4 + 8 and columns 2 (lane % 4) and 2 (lane % 4) + 1 (ptx/mma.cuh). Below, r = 0, 1 selects one of these two rows.
#pragma once

#include "../ptx/exp2.cuh"
#include "../ptx/ldmatrix.cuh"
#include "../ptx/mma.cuh"
#include "attention_lanes.cuh"

constexpr int kWarps = 4;
constexpr int kFlashThreads = 32 * kWarps;

// ---- Tiles in shared memory ---------------------------------------------------------------------------------------
//
// A tile is [rows][WIDTH], with WIDTH / 8 = 4, 8, 10, 12 or 16 chunks of 16 bytes per row; narrower heads are padded
// with zeros. ldmatrix reads the same chunk of eight rows at a time. These are in different banks only if (row WIDTH /
// 8 + chunk) % 8 differs. Let g be the greatest power of two, at most 8, that divides WIDTH / 8: then rows 8 / g apart
// begin at the same bank, and the starts of all rows are multiples of g chunks apart. So chunks are permuted within
// groups of g (xor with row / (8 / g) % g), and all eight differ. A copy writes neighbouring chunks, which are whole
// groups, and therefore different banks too.

template <int WIDTH>
DEVICE int swizzle(int row) {
  constexpr int kChunks = WIDTH / 8;
  constexpr int kGroup = kChunks % 8 == 0 ? 8 : kChunks % 4 == 0 ? 4 : 2;
  return static_cast<unsigned>(row) / (8 / kGroup) % kGroup;
}

// Starts to copy rows `first` to `first` + ROWS - 1, of `count` rows of d <= WIDTH elements. Elements beyond become
// zeros.
template <int ROWS, int WIDTH>
DEVICE void load_tile(bf16* tile, const bf16* __restrict__ rows, int pitch, int first, int count, int d) {
  constexpr unsigned kChunks = WIDTH / 8, kCount = ROWS * kChunks;
#pragma unroll 2
  for (unsigned n = threadIdx.x; n < kCount; n += kFlashThreads) {
    const int row = n / kChunks, chunk = n % kChunks;
    const bool valid = first + row < count && 8 * chunk < d;
    cp_async_16(tile + row * WIDTH + (chunk ^ swizzle<WIDTH>(row)) * 8,
                rows + (valid ? row_start(first + row, pitch) + 8 * chunk : 0), valid);
  }
}

// Operand a: rows `row` to `row` + 15 and columns 16 k to 16 k + 15 of a tile. Here and below `row` is a multiple of
// 16, so that the swizzle depends on the lane only.
template <int WIDTH>
DEVICE void load_a(unsigned (&a)[4], const bf16* tile, int row, int k) {
  const int lane = lane_number(), r = lane % 16;
  ldmatrix_x4(a, tile + (row + r) * WIDTH + ((2 * k + lane / 16) ^ swizzle<WIDTH>(r)) * 8);
}

// Operand b of a product with the transposed tile: the columns of b are rows `row` to `row` + 15 of the tile, the first
// eight in b[0] and b[1], the others in b[2] and b[3]. The sum runs over columns 16 k to 16 k + 15.
template <int WIDTH>
DEVICE void load_b(unsigned (&b)[4], const bf16* tile, int row, int k) {
  const int lane = lane_number(), r = lane / 16 * 8 + lane % 8;
  ldmatrix_x4(b, tile + (row + r) * WIDTH + ((2 * k + lane / 8 % 2) ^ swizzle<WIDTH>(r)) * 8);
}

// Operand b of a product with the tile itself: the sum runs over rows `row` to `row` + 15, and the columns are 16 n to
// 16 n + 15.
template <int WIDTH>
DEVICE void load_b_trans(unsigned (&b)[4], const bf16* tile, int row, int n) {
  const int lane = lane_number(), r = lane % 16;
  ldmatrix_x4_trans(b, tile + (row + r) * WIDTH + ((2 * n + lane / 16) ^ swizzle<WIDTH>(r)) * 8);
}

// The warp's rows as operand a of several products: kept in registers (IN_REGISTERS), or loaded again each time where
// registers are scarce.
template <int WIDTH, int M, bool IN_REGISTERS>
struct OperandA {
  const bf16* tile;
  unsigned fragments[IN_REGISTERS ? WIDTH / 16 : 1][M][4];
};

template <int WIDTH, int M, bool IN_REGISTERS>
DEVICE void load_operand_a(OperandA<WIDTH, M, IN_REGISTERS>& left, const bf16* tile) {
  left.tile = tile;
  if constexpr (IN_REGISTERS) {
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++) {
#pragma unroll
      for (int m = 0; m < M; m++) load_a<WIDTH>(left.fragments[k][m], tile, 16 * m, k);
    }
  }
}

// s = left b^T, where b is rows `row` to `row` + 8 N - 1 of the tile.
template <int WIDTH, int M, bool IN_REGISTERS, int N>
DEVICE void multiply_rows(float (&s)[M][N][4], const OperandA<WIDTH, M, IN_REGISTERS>& left, const bf16* tile,
                          int row) {
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int n = 0; n < N; n++) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
  }
#pragma unroll
  for (int k = 0; k < WIDTH / 16; k++) {
    unsigned a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) {
      if constexpr (IN_REGISTERS) {
#pragma unroll
        for (int i = 0; i < 4; i++) a[m][i] = left.fragments[k][m][i];
      } else {
        load_a<WIDTH>(a[m], left.tile, 16 * m, k);
      }
    }
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned b[4];
      load_b<WIDTH>(b, tile, row + 8 * n, k);
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(s[m][n], a[m], b[0], b[1]);
        mma_bf16(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Rounds 16 K columns of weights, in the layout that mma produces, to a operands.
template <int M, int K>
DEVICE void pack_weights(unsigned (&a)[K][M][4], const float (&w)[M][2 * K][4]) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        a[k][m][i] = pack_bf16(w[m][2 * k + i / 2][i % 2 * 2], w[m][2 * k + i / 2][i % 2 * 2 + 1]);
      }
    }
  }
}

// sum += weights b, where b is rows `row` to `row` + 16 K - 1 of the tile.
template <int WIDTH, int M, int K>
DEVICE void add_products(float (&sum)[M][WIDTH / 8][4], const unsigned (&a)[K][M][4], const bf16* tile, int row) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int n = 0; n < WIDTH / 16; n++) {
      unsigned b[4];
      load_b_trans<WIDTH>(b, tile, row + 16 * k, n);
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(sum[m][2 * n], a[k][m], b[0], b[1]);
        mma_bf16(sum[m][2 * n + 1], a[k][m], b[2], b[3]);
      }
    }
  }
}

// Writes sum times scale to rows `first` to `first` + 16 M - 1 of `count`. Neighbouring lanes exchange halves: the even
// lane takes columns of one tile of 8 and the odd lane columns of the next, so that each has 8 bytes and four lanes
// fill a sector of 32 bytes.
template <int WIDTH, int M>
DEVICE void store_tile(bf16* __restrict__ rows, int pitch, int first, int count, int d,
                       const float (&sum)[M][WIDTH / 8][4], const float (&scale)[M][2]) {
  const int lane = lane_number(), odd = lane % 2;
#pragma unroll
  for (int m = 0; m < M; m++) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int i = first + 16 * m + 8 * r + lane_row();
      bf16* row = rows + row_start(i, pitch);
#pragma unroll
      for (int n = 0; n < WIDTH / 8; n += 2) {
        const float x = scale[m][r];
        const unsigned left = pack_bf16(sum[m][n][2 * r] * x, sum[m][n][2 * r + 1] * x);
        const unsigned right = pack_bf16(sum[m][n + 1][2 * r] * x, sum[m][n + 1][2 * r + 1] * x);
        const unsigned other = __shfl_xor_sync(kAllLanes, odd ? left : right, 1);
        const int column = 8 * (n + odd) + lane % 4 / 2 * 4;
        if (i < count && column < d) {
          *reinterpret_cast<uint2*>(row + column) = odd ? make_uint2(other, right) : make_uint2(left, other);
        }
      }
    }
  }
}
