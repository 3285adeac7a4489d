// What the attention kernels by mma share: tiles of bf16 in shared memory, and operands of mma from them.
//
// A block has four warps. A warp owns 16 M rows (queries, or keys) and the products of these with all of a tile, so
// that no number passes from warp to warp. In what mma leaves behind, a lane has of every 16 x 8 tile the rows
// lane / 4 and lane / 4 + 8 and the columns 2 (lane % 4) and the next (ptx/mma.cuh); r = 0, 1 counts these rows below.
#pragma once

#include "../ptx/exp2.cuh"
#include "../ptx/ldmatrix.cuh"
#include "../ptx/mma.cuh"
#include "attention_lanes.cuh"

constexpr int kWarps = 4;
constexpr int kFlashThreads = 32 * kWarps;

// ---- Tiles in shared memory ---------------------------------------------------------------------------------------
//
// A tile is [rows][WIDTH], WIDTH / 8 = 4, 8, 10, 12 or 16 pieces of 16 bytes a row; heads that are narrower are
// filled up with zeros. ldmatrix reads one piece of eight rows at a time, which lie in other banks only if
// (row WIDTH / 8 + piece) % 8 differs. With g the greatest power of two, at most 8, that divides WIDTH / 8, rows 8 / g
// apart begin at one bank, and all of them g pieces apart. So pieces change places within groups of g (xor with
// row / (8 / g) % g), and all eight differ. A copy writes neighbouring pieces: whole groups, to other banks too.

template <int WIDTH>
DEVICE int swizzle(int row) {
  constexpr int kPieces = WIDTH / 8;
  constexpr int kGroup = kPieces % 8 == 0 ? 8 : kPieces % 4 == 0 ? 4 : 2;
  return static_cast<unsigned>(row) / (8 / kGroup) % kGroup;
}

// Asks for rows `first` .. `first` + ROWS of `count` rows of d <= WIDTH elements; what is beyond becomes zeros.
template <int ROWS, int WIDTH>
DEVICE void load_tile(bf16* tile, const bf16* __restrict__ rows, int pitch, int first, int count, int d) {
  constexpr unsigned kPieces = WIDTH / 8, kCount = ROWS * kPieces;
#pragma unroll 2
  for (unsigned n = threadIdx.x; n < kCount; n += kFlashThreads) {
    const int row = n / kPieces, piece = n % kPieces;
    const bool valid = first + row < count && 8 * piece < d;
    cp_async_16(tile + row * WIDTH + (piece ^ swizzle<WIDTH>(row)) * 8,
                rows + (valid ? row_start(first + row, pitch) + 8 * piece : 0), valid);
  }
}

// Operand a: rows `row` to `row` + 15, columns 16 k to 16 k + 15 of a tile. `row` is a multiple of 16, here and
// below, so that the swizzle is the lane's alone.
template <int WIDTH>
DEVICE void load_left(unsigned (&a)[4], const bf16* tile, int row, int k) {
  const int lane = lane_number(), r = lane % 16;
  ldmatrix_x4(a, tile + (row + r) * WIDTH + ((2 * k + lane / 16) ^ swizzle<WIDTH>(r)) * 8);
}

// Operand b of a product with the tile transposed: columns of b are rows `row` to `row` + 15 of the tile, the first
// eight in b[0], b[1], the others in b[2], b[3]; columns 16 k to 16 k + 15 are summed over.
template <int WIDTH>
DEVICE void load_right(unsigned (&b)[4], const bf16* tile, int row, int k) {
  const int lane = lane_number(), r = lane / 16 * 8 + lane % 8;
  ldmatrix_x4(b, tile + (row + r) * WIDTH + ((2 * k + lane / 8 % 2) ^ swizzle<WIDTH>(r)) * 8);
}

// Operand b of a product with the tile as it lies: rows `row` to `row` + 15 are summed over, columns are 16 n to 16 n
// + 15.
template <int WIDTH>
DEVICE void load_right_trans(unsigned (&b)[4], const bf16* tile, int row, int n) {
  const int lane = lane_number(), r = lane % 16;
  ldmatrix_x4_trans(b, tile + (row + r) * WIDTH + ((2 * n + lane / 16) ^ swizzle<WIDTH>(r)) * 8);
}

// The warp's rows as operand a of products: in registers (KEPT), or read again each time where these are scarce.
template <int WIDTH, int M, bool KEPT>
struct Left {
  const bf16* tile;
  unsigned kept[KEPT ? WIDTH / 16 : 1][M][4];
};

template <int WIDTH, int M, bool KEPT>
DEVICE void take_left(Left<WIDTH, M, KEPT>& left, const bf16* tile) {
  left.tile = tile;
  if constexpr (KEPT) {
#pragma unroll
    for (int k = 0; k < WIDTH / 16; k++) {
#pragma unroll
      for (int m = 0; m < M; m++) load_left<WIDTH>(left.kept[k][m], tile, 16 * m, k);
    }
  }
}

// s = left b^T for rows `row` to `row` + 8 N - 1 of tile b.
template <int WIDTH, int M, bool KEPT, int N>
DEVICE void multiply_rows(float (&s)[M][N][4], const Left<WIDTH, M, KEPT>& left, const bf16* tile, int row) {
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
      if constexpr (KEPT) {
#pragma unroll
        for (int i = 0; i < 4; i++) a[m][i] = left.kept[k][m][i];
      } else {
        load_left<WIDTH>(a[m], left.tile, 16 * m, k);
      }
    }
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      unsigned b[4];
      load_right<WIDTH>(b, tile, row + 8 * n, k);
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(s[m][n], a[m], b[0], b[1]);
        mma_bf16(s[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Weights of 16 K columns as operands a: what mma left behind, rounded.
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

// sum += weights b for rows `row` to `row` + 16 K - 1 of tile b.
template <int WIDTH, int M, int K>
DEVICE void add_products(float (&sum)[M][WIDTH / 8][4], const unsigned (&a)[K][M][4], const bf16* tile, int row) {
#pragma unroll
  for (int k = 0; k < K; k++) {
#pragma unroll
    for (int n = 0; n < WIDTH / 16; n++) {
      unsigned b[4];
      load_right_trans<WIDTH>(b, tile, row + 16 * k, n);
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_bf16(sum[m][2 * n], a[k][m], b[0], b[1]);
        mma_bf16(sum[m][2 * n + 1], a[k][m], b[2], b[3]);
      }
    }
  }
}

// Writes sum times scale to rows `first` to `first` + 16 M - 1 of `count`. Neighbouring lanes trade, the even one for
// columns of one tile of 8 and the odd one for the next, so that each has 8 bytes and four have a whole sector of 32.
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
