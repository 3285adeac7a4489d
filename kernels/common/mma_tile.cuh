// Tiles of bf16 operands of a product in shared memory: from memory by asynchronous copies, into registers by ldmatrix.
//
// A tile lies as its matrix lies. Where the rows in memory run along K, a line of the tile is one row of op(a) (or
// column of op(b)) and has kDepth elements; where they run along M or N, a line is one step of K and has the tile's
// ROWS elements. The first goes to the tensor cores by ldmatrix, the second by its transposing form; nothing is
// transposed on the way.
//
// Banks. A line is CHUNKS chunks of 16 bytes; 8 chunks go through all 32 banks. Chunk c of line l lies at c ^ (l % 8),
// and where a line has 4 chunks, so that two lines share the banks, at c ^ (l / 2 % 4). Then
//   - the 8 rows that ldmatrix reads at a time are one chunk number c of 8 neighbouring lines from a multiple of 8 on:
//     with 8 or more chunks c ^ 0 .. 7, all different modulo 8; with 4, (l % 2) * 4 + (c ^ l / 2 % 4), all different
//     too;
//   - copies by 8 neighbouring threads fill 8 neighbouring chunks of one line, or all of two lines: 128 bytes in one
//     piece, in another order.
#pragma once

#include "../ptx/cp_async.cuh"
#include "../ptx/ldmatrix.cuh"
#include "element.cuh"

constexpr int kDepth = 32;  // Of K, in a tile: two steps of mma.

// Elements before a chunk.
template <int CHUNKS>
DEVICE int chunk_at(int line, int chunk) {
  static_assert(CHUNKS == 4 || CHUNKS % 8 == 0, "see above");
  return (line * CHUNKS + (chunk ^ (CHUNKS == 4 ? line >> 1 & 3 : line & 7))) * 8;
}

// The chunks of the tiles of one operand that a thread copies: one chunk number, every kApart lines.
template <bool ALONG_K, int ROWS, int THREADS>
struct Copies {
  static constexpr int kChunks = (ALONG_K ? kDepth : ROWS) / 8;
  static constexpr int kEach = ROWS * kDepth / 8 / THREADS;
  static constexpr int kApart = THREADS / kChunks;
  static_assert(kApart % 8 == 0, "the chunks of a thread are permuted alike");

  const bf16* from;
  int pitch;
  int rows;   // left from the first element on: rows of op(a), columns of op(b)
  int depth;  // left from the first element on: steps of K
  int to;
};

// For rows `first` on, of `count`, from step `begin` of K on, of `k`.
template <bool ALONG_K, int ROWS, int THREADS>
DEVICE Copies<ALONG_K, ROWS, THREADS> copies_of(const bf16* x, int pitch, int first, int count, int begin, int k) {
  using C = Copies<ALONG_K, ROWS, THREADS>;
  const int line = threadIdx.x / C::kChunks, chunk = threadIdx.x % C::kChunks;
  const int row = first + (ALONG_K ? line : 8 * chunk), l = begin + (ALONG_K ? 8 * chunk : line);
  const bf16* from = x + (ALONG_K ? row_start(row, pitch) + l : row_start(l, pitch) + row);
  return {from, pitch, count - row, k - l, chunk_at<C::kChunks>(line, chunk)};
}

// Starts the copies of the next tile. What lies beyond the rows or beyond K becomes zeros without being read: the gap
// after a row may hold anything, and zero times NaN would be NaN.
template <bool ALONG_K, int ROWS, int THREADS>
DEVICE void copy_tile(bf16* tile, Copies<ALONG_K, ROWS, THREADS>& copies) {
  using C = Copies<ALONG_K, ROWS, THREADS>;
  const int lines = ALONG_K ? copies.rows : copies.depth;
  const int bytes = 2 * max(0, min(8, ALONG_K ? copies.depth : copies.rows));
#pragma unroll
  for (int i = 0; i < C::kEach; i++) {
    const bf16* from = copies.from + row_start(i * C::kApart, copies.pitch);
    cp_async_16_part(tile + copies.to + i * C::kApart * C::kChunks * 8, from, i * C::kApart < lines ? bytes : 0);
  }
  copies.from += ALONG_K ? kDepth : row_start(kDepth, copies.pitch);
  copies.depth -= kDepth;
}

// Where this lane's addresses for ldmatrix begin, of the warp's rows from `row` on, a multiple of 32. op(a) and op(b)^T
// take their four tiles of 8 x 8 in another order (ptx/mma.cuh): a first all 16 rows at one chunk of K, b first all 16
// steps of K of 8 columns.
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

// 16 rows in each fragment, 16 steps of K from 16 `step` on. The bits of a chunk's number that are flipped here are
// zero in that of the lane, and permuting flips bits too: so the order of both does not matter.
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
