// Shared by the attention kernels for Hopper: the work tiles of persistent blocks, tiles loaded by TMA, and warpgroup
// products of them.
//
// A block has two consumer warpgroups, each of which computes 64 rows (queries, or keys) of its own, and a third
// warpgroup in which one thread is the producer of loads. A persistent block processes one work tile after another: 128
// rows of a head. The operands that a tile owns lie in one of two slots (or more), so that those of the next tile are
// loaded while this one is computed. The streamed operands go through a ring of stages.
//
// A tile of R rows of a head is stored as WIDTH / 64 boxes of [R][64] ("swizzle 128B", ptx/tma.cuh). Rows beyond the
// end of the head, and columns beyond its width, are zeros.
#pragma once

#include "../ptx/barrier.cuh"
#include "../ptx/exp2.cuh"
#include "../ptx/proxy.cuh"
#include "../ptx/registers.cuh"
#include "../ptx/stmatrix.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/wgmma.cuh"
#include "attention_lanes.cuh"
#include "pipeline.cuh"

constexpr int kRowBytes = 128;             // Bytes of a row of a box.
constexpr int kGroupRows = 64;             // Rows of a warpgroup.
constexpr int kTileRows = 2 * kGroupRows;  // Rows of a work tile.
constexpr int kReaders = 8;                // Consumer warps.

// Bytes of a tile of `rows` rows.
template <int WIDTH>
DEVICE constexpr int tile_bytes(int rows) {
  return rows * WIDTH * 2;
}

// ---- Work tiles ---------------------------------------------------------------------------------------------------

// Heads whose tiles are processed together: the operands that all of them stream fit in L2.
constexpr int kHeadGroup = 64;

// 128 rows, from `first` on, of a head of a batch. `all`: index of the head among the heads of all batches.
struct WorkTile {
  int first, head, batch;
  long long all;
};

// Work tile number `t`. Within a group of heads, the rows with the most work come first: if causal, the last queries,
// or (`ascending`) the first keys.
DEVICE WorkTile work_tile(int t, int time, int heads, int batches, bool ascending) {
  const int across = (time + kTileRows - 1) / kTileRows, together = kHeadGroup * across;
  const int base = t / together * kHeadGroup, height = min(kHeadGroup, heads * batches - base);
  const int within = t % together, number = within / height, all = base + within % height;
  return {(ascending ? number : across - 1 - number) * kTileRows, all % heads, all / heads, all};
}

DEVICE int tile_count(int time, int heads, int batches) { return (time + kTileRows - 1) / kTileRows * heads * batches; }

// The pairs of the tile's head.
DEVICE Pairs pairs_of_tile(const WorkTile& work, const int* key_mask, int mask_pitch, const Dropout& drop, int causal,
                           int tq, int tk) {
  const int* mask = key_mask ? key_mask + row_start(work.batch, mask_pitch) : nullptr;
  return {tq, tk, causal ? tk - tq : tk, mask, work.all, drop};
}

// ---- Tiles --------------------------------------------------------------------------------------------------------

// Starts to load a tile of ROWS rows.
template <int WIDTH, int ROWS>
DEVICE void copy_rows(unsigned char* tile, const TensorMap& map, mbarrier* full, int row, const WorkTile& work) {
#pragma unroll
  for (int c = 0; c < WIDTH / 64; c++) {
    tma_load(tile + c * ROWS * kRowBytes, map, full, 64 * c, row, work.head, work.batch);
  }
}

// The barriers of the slots, one pair per slot: its operands are loaded, and both warpgroups have released it.
struct Slots {
  mbarrier *loaded, *released;
};

// Producer: loads the queries that a work tile owns, from work.first on, once their slot is free. A slot in `tiles` is
// a tile for each of the warpgroups.
template <int WIDTH>
DEVICE void produce_queries(unsigned char* tiles, const TensorMap& q, const Slots& slots, const PipelineState& slot,
                            const WorkTile& work) {
  constexpr int kQueryBytes = tile_bytes<WIDTH>(kGroupRows);
  mbarrier* loaded = slots.loaded + slot.stage;
  mbarrier_wait(slots.released + slot.stage, slot.parity ^ 1);
  mbarrier_arrive_expect(loaded, 2 * kQueryBytes);
#pragma unroll
  for (int g = 0; g < 2; g++) {
    copy_rows<WIDTH, kGroupRows>(tiles + (2 * slot.stage + g) * kQueryBytes, q, loaded, work.first + g * kGroupRows,
                                 work);
  }
}

// A ring of stages for streamed tiles of ROWS rows, with its barriers and the current stage and phase.
template <int WIDTH, int ROWS, int STAGES>
struct Ring {
  unsigned char* tiles;
  mbarrier *full, *empty;
  PipelineState state;
};

// Producer: loads the tile from `row` on into the next stage, once that has been released.
template <int WIDTH, int ROWS, int STAGES>
DEVICE void produce(Ring<WIDTH, ROWS, STAGES>& ring, const TensorMap& map, int row, const WorkTile& work) {
  mbarrier* full = ring.full + ring.state.stage;
  mbarrier_wait(ring.empty + ring.state.stage, ring.state.parity ^ 1);
  mbarrier_arrive_expect(full, tile_bytes<WIDTH>(ROWS));
  copy_rows<WIDTH, ROWS>(ring.tiles + ring.state.stage * tile_bytes<WIDTH>(ROWS), map, full, row, work);
  advance<STAGES>(ring.state, 1);
}

// Consumer: waits until the tile of the next stage is loaded, and returns the number of the stage.
template <int WIDTH, int ROWS, int STAGES>
DEVICE int consumer_wait(Ring<WIDTH, ROWS, STAGES>& ring) {
  const int stage = ring.state.stage;
  mbarrier_wait(ring.full + stage, ring.state.parity);
  advance<STAGES>(ring.state, 1);
  return stage;
}

// Consumer: this warp has finished reading the stage.
template <int WIDTH, int ROWS, int STAGES>
DEVICE void consumer_release(const Ring<WIDTH, ROWS, STAGES>& ring, int stage) {
  if (lane_number() == 0) mbarrier_arrive(ring.empty + stage);
}

template <int WIDTH, int ROWS, int STAGES>
DEVICE const unsigned char* tile_of(const Ring<WIDTH, ROWS, STAGES>& ring, int stage) {
  return ring.tiles + stage * tile_bytes<WIDTH>(ROWS);
}

// Initialises the barriers of the slots and stages. Called once by the whole block.
template <int SLOTS = 2, int WIDTH, int ROWS, int STAGES>
DEVICE void init_pipeline(Slots& slots, Ring<WIDTH, ROWS, STAGES>& ring, unsigned char* stages) {
  SMEM(mbarrier, full, [STAGES]);
  SMEM(mbarrier, empty, [STAGES]);
  SMEM(mbarrier, loaded, [SLOTS]);
  SMEM(mbarrier, released, [SLOTS]);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < SLOTS; i++) {
      mbarrier_init(loaded + i, 1);
      mbarrier_init(released + i, 2);
    }
#pragma unroll
    for (int s = 0; s < STAGES; s++) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, kReaders);
    }
    mbarrier_fence();
  }
  __syncthreads();
  slots = {loaded, released};
  ring = {stages, full, empty, {0, 0}};
}

// ---- Matrix products ----------------------------------------------------------------------------------------------

// A K-major descriptor: columns from 16 `step` on of a tile of ROWS rows, which are rows of a or columns of b.
template <int ROWS>
DEVICE unsigned long long k_major(const unsigned char* tile, int step) {
  return matrix_descriptor(tile + step / 4 * (ROWS * kRowBytes) + step % 4 * 32, ROWS * kRowBytes, 8 * kRowBytes);
}

// A descriptor of a transposed operand: rows from 16 `step` on of a tile of ROWS rows, whose columns are those of b.
template <int ROWS>
DEVICE unsigned long long mn_major(const unsigned char* tile, int step) {
  return matrix_descriptor(tile + step * (16 * kRowBytes), ROWS * kRowBytes, 8 * kRowBytes);
}

// s [64, ROWS] = a b^T, for tiles a of 64 rows and b of ROWS rows.
template <int WIDTH, int ROWS>
DEVICE void multiply_rows(float (&s)[ROWS / 2], const unsigned char* a, const unsigned char* b) {
#pragma unroll
  for (int step = 0; step < WIDTH / 16; step++) {
    wgmma_bf16<false, false>(s, k_major<kGroupRows>(a, step), k_major<ROWS>(b, step), step > 0);
  }
}

// sum [64, WIDTH] = weights [64, ROWS] b (+ sum, if `add`), for a tile b of ROWS rows.
template <int WIDTH, int ROWS>
DEVICE void add_products(float (&sum)[WIDTH / 2], const unsigned (&weights)[ROWS / 16][4], const unsigned char* b,
                         int add) {
#pragma unroll
  for (int step = 0; step < ROWS / 16; step++) {
    wgmma_bf16<true>(sum, weights[step], mn_major<ROWS>(b, step), add || step > 0);
  }
}

// Rounds the result of a product to the left operand of the next one.
template <int ROWS>
DEVICE void pack_weights(unsigned (&a)[ROWS / 16][4], const float (&w)[ROWS / 2]) {
#pragma unroll
  for (int n = 0; n < ROWS / 16; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) a[n][i] = pack_bf16(w[8 * n + 2 * i], w[8 * n + 2 * i + 1]);
  }
}

// ---- Pairs --------------------------------------------------------------------------------------------------------

// Whether some pair of the 16 queries from `warp_row` on and the ROWS keys from `start` on may be masked: by the end of
// the sequence, by the key mask, or by causality.
template <int ROWS>
DEVICE bool may_mask(const Pairs& pairs, int warp_row, int start) {
  return pairs.key_mask || start + ROWS > pairs.tk || start + ROWS - 1 > warp_row + pairs.ahead;
}

// Replaces the masked scores among keys 32 h to 32 h + 31 of the tile by `masked`. These keys begin at key `start`, and
// `valid` are the valid ones.
template <int ROWS>
DEVICE void mask_32(float (&s)[ROWS / 2], int h, unsigned valid, const Pairs& pairs, int warp_row, int start,
                    float masked) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const unsigned bits = visible_keys(pairs, valid, warp_row + 8 * r + lane_row(), start) >> lane_column();
#pragma unroll
    for (int c = 0; c < 8; c++) {
      if (!(bits >> (c / 2 * 8 + c % 2) & 1)) s[16 * h + c / 2 * 4 + 2 * r + c % 2] = masked;
    }
  }
}

// Replaces the masked scores among all keys of the tile.
template <int ROWS>
DEVICE void mask_pairs(float (&s)[ROWS / 2], const Pairs& pairs, int warp_row, int start, float masked) {
#pragma unroll
  for (int h = 0; h < ROWS / 32; h++) {
    mask_32<ROWS>(s, h, valid_keys(pairs, start + 32 * h), pairs, warp_row, start + 32 * h, masked);
  }
}

// ---- Outputs ------------------------------------------------------------------------------------------------------

// Stages the warpgroup's sums, each row times its `scale`, in a tile of its 64 rows.
template <int WIDTH>
DEVICE void stage_rows(unsigned char* tile, const float (&sum)[WIDTH / 2], const float (&scale)[2]) {
  const int lane = lane_number(), line = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int c = 0; c < WIDTH / 8; c += 2) {
    unsigned four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      four[i] = pack_bf16(sum[4 * c + 2 * i] * scale[i % 2], sum[4 * c + 2 * i + 1] * scale[i % 2]);
    }
    stmatrix_x4(tile + c / 8 * (kGroupRows * kRowBytes) + line * kRowBytes + ((c % 8 + lane / 16) ^ line % 8) * 16,
                four);
  }
}

// Starts to store the tile to the rows from `row` on. Called by one thread.
template <int WIDTH>
DEVICE void store_rows(const TensorMap& map, const unsigned char* tile, int row, const WorkTile& work) {
#pragma unroll
  for (int c = 0; c < WIDTH / 64; c++) {
    tma_store(map, tile + c * (kGroupRows * kRowBytes), 64 * c, row, work.head, work.batch);
  }
}

// The warpgroup has staged its outputs in place of the operands that it owns. One thread starts to store them
// (`store`), and releases the slot once they have been read.
template <class Store>
DEVICE void store_and_release(mbarrier* released, int barrier, const Store& store) {
  fence_async();
  named_barrier(barrier, 128);
  if (threadIdx.x % 128 == 0) {
    store();
    tma_store_commit();
    tma_store_wait_read<0>();
    mbarrier_arrive(released);
  }
}
