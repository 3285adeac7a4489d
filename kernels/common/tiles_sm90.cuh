// The tiles of a matrix product that a persistent block computes (kernels/sm90/linear.cu), and the layout of its
// operands in shared memory.
//
// A work tile is a tile of outputs and a part of K. Work tiles are numbered by output tile first, in the order of
// bands.cuh, then by part. A block, or a cluster, takes every gridDim.x-th from its own number on.
#pragma once

#include "../ptx/cluster.cuh"
#include "../ptx/wgmma.cuh"
#include "bands.cuh"
#include "tma_boxes.cuh"

constexpr int kDepth = 64;                         // Steps of K in a stage: 128 bytes.
constexpr int kRowBytes = 128;                     // Bytes of a row of a box.
constexpr int kBoxBytes = 64 * kRowBytes;          // Bytes of 64 rows.
constexpr int kOutputBytes = kSlots * kSlotBytes;  // Bytes of a warpgroup: two boxes, or 16 rows of 64 sums per warp.
static_assert(kOutputBytes == 4 * 16 * 64 * 4, "both layouts must fill the buffer");

// The tile of a block. The BLOCKS blocks of a cluster compute tiles above each other.
template <int ROWS, int WIDTH, int BLOCKS>
struct TileShape {
  static constexpr int kRows = ROWS, kWidth = WIDTH, kCluster = BLOCKS;
  static constexpr bool kCooperative = ROWS * WIDTH > 128 * 128;  // Both consumers share a tile.
  static constexpr int kBytesA = ROWS * kRowBytes, kBytesB = WIDTH * kRowBytes, kStageBytes = kBytesA + kBytesB;
  static constexpr int kStages = (226 * 1024 - 2 * kOutputBytes) / kStageBytes;
  static constexpr int kRowBlocks = kCooperative ? 1 : ROWS / 64;   // Blocks of 64 rows of a consumer.
  static constexpr int kSums = kRowBlocks * WIDTH / 2;              // Sums of a thread.
  static constexpr int kReaders = BLOCKS * (kCooperative ? 8 : 4);  // Warps that must release a stage.
  static_assert(kCooperative || BLOCKS == 1, "ping-pong tiles do not support clusters");
};

// A matrix product whose K (`depth` stages) is cut into `parts` parts of `part` stages, of which the last may be
// shorter.
struct GemmShape {
  int m, n, depth, part, parts;
};

// A block's work tile: the numbers of its output tile and of its part of K; its first row (which may be m or more in
// the last tiles of a cluster) and column; and the stages `begin` to `end` - 1.
struct WorkTile {
  int tile, k_part, row, column, begin, end;
};

// The number of output tiles, where those of a cluster count as one.
template <class T>
DEVICE int tile_count(const GemmShape& p) {
  constexpr int kTall = T::kCluster * T::kRows;
  return (p.m + kTall - 1) / kTall * ((p.n + T::kWidth - 1) / T::kWidth);
}

// This block's share of work tile `t` of its cluster.
template <class T>
DEVICE WorkTile work_tile(const GemmShape& p, int t) {
  const int count = tile_count<T>(p), k_part = t / count, rank = T::kCluster > 1 ? cluster_rank() : 0;
  WorkTile work = {t % count * T::kCluster + rank, k_part, 0, 0, k_part * p.part, min((k_part + 1) * p.part, p.depth)};
  tile_position<T::kCluster * T::kRows, T::kWidth>(t % count, p.m, p.n, work.row, work.column);
  work.row += rank * T::kRows;
  return work;
}

// The descriptor of a tile from row 64 `block` of op(a) (or column 64 `block` of op(b)) and step 16 `step` of K on.
// Along K a tile is one box of 64 columns; across K it consists of boxes [64 of K][64], one for every 64 rows.
template <bool ALONG_K>
DEVICE unsigned long long operand(const unsigned char* tile, int block, int step) {
  return matrix_descriptor(tile + block * kBoxBytes + step * (ALONG_K ? 32 : 16 * kRowBytes), kBoxBytes, 8 * kRowBytes);
}
