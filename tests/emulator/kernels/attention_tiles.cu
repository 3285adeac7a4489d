// What the attention kernels for Hopper make of their heads, in which order, and what they tell the tensor cores of tiles.
#include "common/attention_sm90.cuh"

// Whoever calls this links the kernels.
extern "C" int vcycle_attention_tiles() { return 1; }

// out [2, works]: of each work the rows that it owns, counted through all heads of all batches; and its head, counted so.
KERNEL(works_of_heads, 1, 1, int* out, int time, int heads, int batches, int ascending) {
  const int count = works(time, heads, batches), across = (time + kOwned - 1) / kOwned;
  for (int t = blockIdx.x; t < count; t += gridDim.x) {
    const Work work = work_at(t, time, heads, batches, ascending);
    out[t] = (work.batch * heads + work.head) * across + work.first / kOwned;
    out[count + t] = static_cast<int>(work.all);
  }
}

// The descriptors of a tile of ROWS rows and 128 columns: for each step along columns, then along rows.
template <int ROWS>
DEVICE void describe(unsigned long long* out) {
  SMEM_DYN(unsigned char, tile);
  for (int step = 0; step < 8; step++) out[step] = along_columns<ROWS>(tile, step);
  for (int step = 0; step < ROWS / 16; step++) out[8 + step] = along_rows<ROWS>(tile, step);
}

KERNEL(steps_of_64_rows, 1, 1, unsigned long long* out) { describe<64>(out); }
KERNEL(steps_of_128_rows, 1, 1, unsigned long long* out) { describe<128>(out); }
