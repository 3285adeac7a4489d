// Which tiles of a product a block makes that stays (kernels/linear_sm90.cu), and how shared memory holds what it reads.
//
// A piece of work is a tile of outputs and a part of K; its number counts tiles first, in the order of bands.cuh, then parts. A
// block, or a cluster of them, takes every gridDim.x-th from its own number on.
#pragma once

#include "../ptx/cluster.cuh"
#include "../ptx/wgmma.cuh"
#include "bands.cuh"
#include "boxes.cuh"

constexpr int kDepth = 64;                // Of K, in a stage: 128 bytes.
constexpr int kRow = 128;                 // Bytes of a row of a box.
constexpr int kBox = 64 * kRow;           // Bytes of 64 of them.
constexpr int kOutputs = kSlots * kSlot;  // Bytes of a warpgroup: two boxes, or for each warp 16 rows of 64 sums.
static_assert(kOutputs == 4 * 16 * 64 * 4, "both take all of it");

// What a block makes at a time; BLOCKS of a cluster make such tiles above each other.
template <int ROWS, int WIDTH, int BLOCKS>
struct Tile {
  static constexpr int kRows = ROWS, kWidth = WIDTH, kCluster = BLOCKS;
  static constexpr bool kShared = ROWS * WIDTH > 128 * 128;    // By both consumers.
  static constexpr int kTileA = ROWS * kRow, kTileB = WIDTH * kRow, kStage = kTileA + kTileB;
  static constexpr int kStages = (226 * 1024 - 2 * kOutputs) / kStage;
  static constexpr int kBlocks = kShared ? 1 : ROWS / 64;      // Of 64 rows, of a consumer.
  static constexpr int kSums = kBlocks * WIDTH / 2;            // Of a thread.
  static constexpr int kReaders = BLOCKS * (kShared ? 8 : 4);  // Warps that a stage waits for.
  static_assert(kShared || BLOCKS == 1, "consumers of one block take turns");
};

// A product whose K, `depth` stages, is cut in `parts` of `part` stages, the last perhaps shorter.
struct Product {
  int m, n, depth, part, parts;
};

// A block's piece of work: the number of its tile and of its part of K; its first row, which may be m or more in the last tiles of a
// cluster, and column; the stages from `begin` to `end`.
struct Work {
  int tile, of_k, row, column, begin, end;
};

// Tiles of a product, those of a cluster counted as one.
template <class T>
DEVICE int tiles(const Product& p) {
  constexpr int kTall = T::kCluster * T::kRows;
  return (p.m + kTall - 1) / kTall * ((p.n + T::kWidth - 1) / T::kWidth);
}

// What this block makes of work `t` of its cluster.
template <class T>
DEVICE Work work_at(const Product& p, int t) {
  const int count = tiles<T>(p), of_k = t / count, rank = T::kCluster > 1 ? cluster_rank() : 0;
  Work work = {t % count * T::kCluster + rank, of_k, 0, 0, of_k * p.part, min((of_k + 1) * p.part, p.depth)};
  tile_position<T::kCluster * T::kRows, T::kWidth>(t % count, p.m, p.n, work.row, work.column);
  work.row += rank * T::kRows;
  return work;
}

// What the tensor cores read of a tile, from row 64 `block` of op(a) (or column of op(b)) on and 16 `step` steps of K. Along K a
// tile is one box of 64 columns; across K it is boxes [64 of K][64], one for each 64 rows.
template <bool ALONG_K>
DEVICE unsigned long long operand(const unsigned char* tile, int block, int step) {
  return matrix_descriptor(tile + block * kBox + step * (ALONG_K ? 32 : 16 * kRow), kBox, 8 * kRow);
}
