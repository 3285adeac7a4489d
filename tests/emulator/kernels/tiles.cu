// How often the blocks of a product make each stage of each tile.
#include "common/tiles_sm90.cuh"

// Whoever calls this links the kernels.
extern "C" int vcycle_tiles() { return 1; }

// made [rows of tiles, columns of tiles, depth], as many rows as whole clusters have; by the number of a tile and its part of K, rows of
// `numbers` count how often each comes.
template <class T>
DEVICE void count_works(unsigned* made, unsigned* numbers, int m, int n, int k, int part, int parts) {
  const Product p = {m, n, (k + kDepth - 1) / kDepth, part, parts};
  const int across = (n + T::kWidth - 1) / T::kWidth, count = tiles<T>(p) * parts;
  for (int t = blockIdx.x / T::kCluster; t < count; t += gridDim.x / T::kCluster) {
    const Work work = work_at<T>(p, t);
    const int place = work.row / T::kRows * across + work.column / T::kWidth;
    for (int l = work.begin; l < work.end; l++) atomicAdd(made + place * p.depth + l, 1u);
    atomicAdd(numbers + work.of_k * tiles<T>(p) * T::kCluster + work.tile, 1u);
  }
}

#define WORKS(rows, width, blocks)                                                                                    \
  KERNEL_OF_CLUSTERS(works_##rows##_##width##_##blocks, blocks, 32, 1, unsigned* made, unsigned* numbers, int m, int n, \
                     int k, int part, int parts) {                                                                    \
    if (threadIdx.x == 0) count_works<Tile<rows, width, blocks>>(made, numbers, m, n, k, part, parts);                \
  }

WORKS(64, 256, 1)
WORKS(128, 128, 1)
WORKS(128, 192, 1)
WORKS(128, 256, 1)
WORKS(128, 256, 2)

// The descriptors of a tile of 256 rows, for each 64 of them and step of K.
template <bool ALONG_K>
DEVICE void describe(unsigned long long* out) {
  SMEM_DYN(unsigned char, tile);
  for (int i = 0; i < 16; i++) out[i] = operand<ALONG_K>(tile, i / 4, i % 4);
}

KERNEL(operands_along, 1, 1, unsigned long long* out) { describe<true>(out); }
KERNEL(operands_across, 1, 1, unsigned long long* out) { describe<false>(out); }
