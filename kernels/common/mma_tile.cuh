// Tiles of bf16 matrix operands in shared memory: filled by asynchronous copies, and loaded into registers by ldmatrix.
//
// A tile has the layout of its matrix. Where the rows in memory run along K, a line of the tile is one row of op(a) (or
// column of op(b)) and has kDepth elements. Where they run along M or N, a line is one step of K and has the tile's
// ROWS elements. The first kind is loaded by ldmatrix, the second by its transposing form; nothing is transposed during
// the copy.
//
// Banks. A line has CHUNKS chunks of 16 bytes; 8 chunks cover all 32 banks. Chunk c of line l is stored at c ^ (l % 8),
// or, where a line has 4 chunks, so that two lines share the banks, at c ^ (l / 2 % 4). Then
//   - the 8 rows that ldmatrix reads at a time are chunk number c of 8 neighbouring lines, the first a multiple of 8:
//     with 8 or more chunks they are at c ^ 0 .. 7, all different modulo 8; with 4 chunks at (l % 2) * 4 + (c ^ l / 2 %
//     4), all different too;
//   - copies by 8 neighbouring threads fill 8 neighbouring chunks of one line, or all chunks of two lines: 128
//     contiguous bytes, in a different order.
#pragma once

#include "../ptx/cp_async.cuh"
#include "../ptx/ldmatrix.cuh"
#include "element.cuh"

constexpr int kDepth = 32;  // Steps of K in a tile: two steps of mma.

// The offset in elements of a chunk.
template <int CHUNKS>
DEVICE int chunk_at(int line, int chunk) {
  static_assert(CHUNKS == 4 || CHUNKS % 8 == 0, "the swizzle is defined for 4 chunks or a multiple of 8");
  return (line * CHUNKS + (chunk ^ (CHUNKS == 4 ? line >> 1 & 3 : line & 7))) * 8;
}

// The chunks that a thread copies of the tiles of one operand: the same chunk of every kLineStride-th line.
template <bool ALONG_K, int ROWS, int THREADS>
struct TileCopies {
  static constexpr int kChunks = (ALONG_K ? kDepth : ROWS) / 8;
  static constexpr int kCount = ROWS * kDepth / 8 / THREADS;
  static constexpr int kLineStride = THREADS / kChunks;
  static_assert(kLineStride % 8 == 0, "all chunks of a thread must have the same swizzle");

  const bf16* from;
  int pitch;
  int rows;   // remaining from the first element on: rows of op(a), columns of op(b)
  int depth;  // remaining from the first element on: steps of K
  int to;
};

// For rows from `first` on, of `count`, and steps of K from `begin` on, of `k`.
template <bool ALONG_K, int ROWS, int THREADS>
DEVICE TileCopies<ALONG_K, ROWS, THREADS> copies_of(const bf16* x, int pitch, int first, int count, int begin, int k) {
  using C = TileCopies<ALONG_K, ROWS, THREADS>;
  const int line = threadIdx.x / C::kChunks, chunk = threadIdx.x % C::kChunks;
  const int row = first + (ALONG_K ? line : 8 * chunk), l = begin + (ALONG_K ? 8 * chunk : line);
  const bf16* from = x + (ALONG_K ? row_start(row, pitch) + l : row_start(l, pitch) + row);
  return {from, pitch, count - row, k - l, chunk_at<C::kChunks>(line, chunk)};
}

// Starts the copies of the next tile. What lies beyond the rows or beyond K becomes zeros without being read: the gap
// after a row may hold anything, and zero times NaN would be NaN.
template <bool ALONG_K, int ROWS, int THREADS>
DEVICE void copy_tile(bf16* tile, TileCopies<ALONG_K, ROWS, THREADS>& copies) {
  using C = TileCopies<ALONG_K, ROWS, THREADS>;
  const int lines = ALONG_K ? copies.rows : copies.depth;
  const int bytes = 2 * max(0, min(8, ALONG_K ? copies.depth : copies.rows));
#pragma unroll
  for (int i = 0; i < C::kCount; i++) {
    const bf16* from = copies.from + row_start(i * C::kLineStride, copies.pitch);
    cp_async_16_part(tile + copies.to + i * C::kLineStride * C::kChunks * 8, from,
                     i * C::kLineStride < lines ? bytes : 0);
  }
  copies.from += ALONG_K ? kDepth : row_start(kDepth, copies.pitch);
  copies.depth -= kDepth;
}

// The offset of this lane's first address for ldmatrix, for the rows of the warp from `row` on, a multiple of 32. op(a)
// and op(b)^T take their four tiles of 8 x 8 in different orders (ptx/mma.cuh): a takes first all 16 rows at one chunk
// of K, b first all 16 steps of K of 8 columns.
template <bool ALONG_K, int ROWS, bool IS_A>
DEVICE int fragments_at(int row) {
  const int lane = threadIdx.x % 32;
  if (ALONG_K == IS_A) {
    return ALONG_K ? chunk_at<kDepth / 8>(row + lane % 16, lane / 16)
                   : chunk_at<ROWS / 8>(lane % 16, row / 8 + lane / 16);
  }
  return ALONG_K ? chunk_at<kDepth / 8>(row + lane % 8 + lane / 16 * 8, lane / 8 % 2)
                 : chunk_at<ROWS / 8>(lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2);
}

// Loads 16 rows into each fragment, for the 16 steps of K from 16 `step` on. The bits of the chunk number that are
// flipped here are zero in the lane's own number, and the swizzle is an xor as well, so the two can be applied in
// either order.
template <bool ALONG_K, int ROWS, int COUNT>
DEVICE void load_fragments(unsigned (&r)[COUNT][4], const bf16* tile, int at, int step) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    if constexpr (ALONG_K) {
      ldmatrix_x4(r[i], tile + (at ^ 16 * step) + i * 16 * kDepth);
    } else {
      ldmatrix_x4_trans(r[i], tile + (at ^ 16 * i) + step * 16 * ROWS);
    }
  }
}
