// Counts how often the blocks of a matrix product process each stage of each tile.
#include "common/tiles_sm90.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_tiles() { return 1; }

// made [rows of tiles, columns of tiles, depth] counts stages, where the rows of tiles are rounded up to whole
// clusters. `numbers` counts each combination of a part of K and a tile number.
template <class T>
DEVICE void count_tiles(unsigned* made, unsigned* numbers, int m, int n, int k, int part, int parts) {
  const GemmShape p = {m, n, (k + kDepth - 1) / kDepth, part, parts};
  const int across = (n + T::kWidth - 1) / T::kWidth, count = tile_count<T>(p) * parts;
  for (int t = blockIdx.x / T::kCluster; t < count; t += gridDim.x / T::kCluster) {
    const WorkTile work = work_tile<T>(p, t);
    const int place = work.row / T::kRows * across + work.column / T::kWidth;
    for (int l = work.begin; l < work.end; l++) atomicAdd(made + place * p.depth + l, 1u);
    atomicAdd(numbers + work.k_part * tile_count<T>(p) * T::kCluster + work.tile, 1u);
  }
}

#define WORKS(rows, width, blocks)                                                                                    \
  KERNEL_OF_CLUSTERS(works_##rows##_##width##_##blocks, blocks, 32, 1, unsigned* made, unsigned* numbers, int m, int n, \
                     int k, int part, int parts) {                                                                    \
    if (threadIdx.x == 0) count_tiles<TileShape<rows, width, blocks>>(made, numbers, m, n, k, part, parts);           \
  }

WORKS(64, 256, 1)
WORKS(128, 128, 1)
WORKS(128, 192, 1)
WORKS(128, 256, 1)
WORKS(128, 256, 2)

// The descriptors of a tile of 256 rows, for every 64 rows and step of K.
template <bool ALONG_K>
DEVICE void describe(unsigned long long* out) {
  SMEM_DYN(unsigned char, tile);
  for (int i = 0; i < 16; i++) out[i] = operand<ALONG_K>(tile, i / 4, i % 4);
}

KERNEL(operands_along, 1, 1, unsigned long long* out) { describe<true>(out); }
KERNEL(operands_across, 1, 1, unsigned long long* out) { describe<false>(out); }
