// The work tiles of the attention kernels for Hopper, their order, and the descriptors of tiles in shared memory.
#include "common/attention_sm90.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_attention_tiles() { return 1; }

// out [2, tiles]: for each work tile, the index of its rows among the tiles of all heads of all batches; then the index
// of its head among these heads.
KERNEL(works_of_heads, 1, 1, int* out, int time, int heads, int batches, int ascending) {
  const int count = tile_count(time, heads, batches), across = (time + kTileRows - 1) / kTileRows;
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    const WorkTile work = work_tile(t, time, heads, batches, ascending);
    out[t] = (work.batch * heads + work.head) * across + work.first / kTileRows;
    out[count + t] = static_cast<int>(work.all);
  }
}

// The descriptors of a tile of ROWS rows and 128 columns: those of all steps along columns, then along rows.
template <int ROWS>
DEVICE void describe(unsigned long long* out) {
  SMEM_DYN(unsigned char, tile);
  for (int step = 0; step < 8; step++) out[step] = k_major<ROWS>(tile, step);
  for (int step = 0; step < ROWS / 16; step++) out[8 + step] = mn_major<ROWS>(tile, step);
}

KERNEL(steps_of_64_rows, 1, 1, unsigned long long* out) { describe<64>(out); }
KERNEL(steps_of_128_rows, 1, 1, unsigned long long* out) { describe<128>(out); }
