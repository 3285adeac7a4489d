// What the attention kernels for Hopper share: work for blocks that stay, tiles that the copy engine brings, and products of
// these by a warpgroup.
//
// A block has two warpgroups that compute, each for 64 rows (queries, or keys) of its own, and a third of which one thread
// copies. It takes one work after another: a head, and 128 rows of it. What a work owns lies in one of two places (or more), so that
// the next work's is on its way while this one is computed; what passes by goes through a ring of stages.
//
// A tile of R rows of a head lies as WIDTH / 64 boxes of [R][64] ("swizzle 128B", ptx/tma.cuh). Rows beyond the head's last
// one, and columns beyond its width, are zeros.
#pragma once

#include "../ptx/barrier.cuh"
#include "../ptx/exp2.cuh"
#include "../ptx/proxy.cuh"
#include "../ptx/registers.cuh"
#include "../ptx/stmatrix.cuh"
#include "../ptx/tma.cuh"
#include "../ptx/wgmma.cuh"
#include "attention_lanes.cuh"
#include "turn.cuh"

constexpr int kRow = 128;              // Bytes of a row of a box.
constexpr int kHalf = 64;              // Rows of a warpgroup.
constexpr int kOwned = 2 * kHalf;      // Rows of a work.
constexpr int kReaders = 8;            // Warps that compute.

// Bytes of a tile.
template <int WIDTH>
DEVICE constexpr int tile_bytes(int rows) {
  return rows * WIDTH * 2;
}

// ---- Work ---------------------------------------------------------------------------------------------------------

// Heads whose works follow one another: what passes by of all of them fits the second-level cache.
constexpr int kTogether = 64;

// 128 rows from `first` on of a head of a batch; `all`: its number among those of all batches.
struct Work {
  int first, head, batch;
  long long all;
};

// Work number `t`. Of heads that follow one another, the rows with most to do come first: when causal the last queries, or
// (`ascending`) the first keys.
DEVICE Work work_at(int t, int time, int heads, int batches, bool ascending) {
  const int across = (time + kOwned - 1) / kOwned, together = kTogether * across;
  const int base = t / together * kTogether, height = min(kTogether, heads * batches - base);
  const int within = t % together, number = within / height, all = base + within % height;
  return {(ascending ? number : across - 1 - number) * kOwned, all % heads, all / heads, all};
}

DEVICE int works(int time, int heads, int batches) { return (time + kOwned - 1) / kOwned * heads * batches; }

// Which pairs of the work's head count.
DEVICE Pairs pairs_of_work(const Work& work, const int* key_mask, int mask_pitch, const Dropout& drop, int causal, int tq,
                           int tk) {
  const int* mask = key_mask ? key_mask + row_start(work.batch, mask_pitch) : nullptr;
  return {tq, tk, causal ? tk - tq : tk, mask, work.all, drop};
}

// ---- Tiles --------------------------------------------------------------------------------------------------------

// Starts to copy a tile of ROWS rows.
template <int WIDTH, int ROWS>
DEVICE void copy_rows(unsigned char* tile, const TensorMap& map, mbarrier* full, int row, const Work& work) {
#pragma unroll
  for (int c = 0; c < WIDTH / 64; c++) {
    tma_load(tile + c * ROWS * kRow, map, full, 64 * c, row, work.head, work.batch);
  }
}

// Barriers of what works own: `there` in one of its places, and `done` with by both warpgroups.
struct Places {
  mbarrier *there, *done;
};

// By the thread that copies: the queries that a work owns, from work.first on, once their place is free. In `tiles` it has a tile
// for each of the warpgroups.
template <int WIDTH>
DEVICE void send_queries(unsigned char* tiles, const TensorMap& q, const Places& places, const Turn& place,
                         const Work& work) {
  constexpr int kQueries = tile_bytes<WIDTH>(kHalf);
  mbarrier* there = places.there + place.stage;
  mbarrier_wait(places.done + place.stage, place.parity ^ 1);
  mbarrier_arrive_expect(there, 2 * kQueries);
#pragma unroll
  for (int g = 0; g < 2; g++) {
    copy_rows<WIDTH, kHalf>(tiles + (2 * place.stage + g) * kQueries, q, there, work.first + g * kHalf, work);
  }
}

// Stages for tiles of ROWS rows that pass by, their barriers, and where the walk over them is.
template <int WIDTH, int ROWS, int STAGES>
struct Ring {
  unsigned char* tiles;
  mbarrier *full, *empty;
  Turn turn;
};

// By the thread that copies: the next stage, once it has been read, takes the tile from `row` on.
template <int WIDTH, int ROWS, int STAGES>
DEVICE void send(Ring<WIDTH, ROWS, STAGES>& ring, const TensorMap& map, int row, const Work& work) {
  mbarrier* full = ring.full + ring.turn.stage;
  mbarrier_wait(ring.empty + ring.turn.stage, ring.turn.parity ^ 1);
  mbarrier_arrive_expect(full, tile_bytes<WIDTH>(ROWS));
  copy_rows<WIDTH, ROWS>(ring.tiles + ring.turn.stage * tile_bytes<WIDTH>(ROWS), map, full, row, work);
  advance<STAGES>(ring.turn, 1);
}

// By those who compute: the number of the next stage, once its tile is there.
template <int WIDTH, int ROWS, int STAGES>
DEVICE int receive(Ring<WIDTH, ROWS, STAGES>& ring) {
  const int stage = ring.turn.stage;
  mbarrier_wait(ring.full + stage, ring.turn.parity);
  advance<STAGES>(ring.turn, 1);
  return stage;
}

// This warp has read it.
template <int WIDTH, int ROWS, int STAGES>
DEVICE void release(const Ring<WIDTH, ROWS, STAGES>& ring, int stage) {
  if (lane_number() == 0) mbarrier_arrive(ring.empty + stage);
}

template <int WIDTH, int ROWS, int STAGES>
DEVICE const unsigned char* tile_of(const Ring<WIDTH, ROWS, STAGES>& ring, int stage) {
  return ring.tiles + stage * tile_bytes<WIDTH>(ROWS);
}

// The barriers of a kernel's places and stages, made. By the whole block, once.
template <int PLACES = 2, int WIDTH, int ROWS, int STAGES>
DEVICE void open_block(Places& places, Ring<WIDTH, ROWS, STAGES>& ring, unsigned char* stages) {
  SMEM(mbarrier, full, [STAGES]);
  SMEM(mbarrier, empty, [STAGES]);
  SMEM(mbarrier, there, [PLACES]);
  SMEM(mbarrier, done, [PLACES]);
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < PLACES; i++) {
      mbarrier_init(there + i, 1);
      mbarrier_init(done + i, 2);
    }
#pragma unroll
    for (int s = 0; s < STAGES; s++) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, kReaders);
    }
    mbarrier_fence();
  }
  __syncthreads();
  places = {there, done};
  ring = {stages, full, empty, {0, 0}};
}

// ---- Products -----------------------------------------------------------------------------------------------------

// Columns 16 `step` on of a tile of ROWS rows, which are rows of a or columns of b.
template <int ROWS>
DEVICE unsigned long long along_columns(const unsigned char* tile, int step) {
  return matrix_descriptor(tile + step / 4 * (ROWS * kRow) + step % 4 * 32, ROWS * kRow, 8 * kRow);
}

// Rows 16 `step` on of a tile of ROWS rows, whose columns are columns of b.
template <int ROWS>
DEVICE unsigned long long along_rows(const unsigned char* tile, int step) {
  return matrix_descriptor(tile + step * (16 * kRow), ROWS * kRow, 8 * kRow);
}

// s [64, ROWS] = a b^T, for tiles a of 64 rows and b of ROWS.
template <int WIDTH, int ROWS>
DEVICE void multiply_rows(float (&s)[ROWS / 2], const unsigned char* a, const unsigned char* b) {
#pragma unroll
  for (int step = 0; step < WIDTH / 16; step++) {
    wgmma_bf16<false, false>(s, along_columns<kHalf>(a, step), along_columns<ROWS>(b, step), step > 0);
  }
}

// sum [64, WIDTH] = weights [64, ROWS] b (+ sum, if `add`), for a tile b of ROWS rows.
template <int WIDTH, int ROWS>
DEVICE void add_products(float (&sum)[WIDTH / 2], const unsigned (&weights)[ROWS / 16][4], const unsigned char* b,
                         int add) {
#pragma unroll
  for (int step = 0; step < ROWS / 16; step++) {
    wgmma_bf16<true>(sum, weights[step], along_rows<ROWS>(b, step), add || step > 0);
  }
}

// Products as weights of others, rounded.
template <int ROWS>
DEVICE void pack_weights(unsigned (&a)[ROWS / 16][4], const float (&w)[ROWS / 2]) {
#pragma unroll
  for (int n = 0; n < ROWS / 16; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) a[n][i] = pack_bf16(w[8 * n + 2 * i], w[8 * n + 2 * i + 1]);
  }
}

// ---- Pairs --------------------------------------------------------------------------------------------------------

// Whether some pair of queries `mine` to `mine` + 15 and ROWS keys from `start` on does not count: of the ragged end, of the mask,
// or beyond what the first query sees.
template <int ROWS>
DEVICE bool hides(const Pairs& pairs, int mine, int start) {
  return pairs.key_mask || start + ROWS > pairs.tk || start + ROWS - 1 > mine + pairs.ahead;
}

// Puts `hidden` in place of those that do not, among the h-th 32 of the tile's keys: they begin at key `start`, and of them
// `counting` count for some query.
template <int ROWS>
DEVICE void hide_32(float (&s)[ROWS / 2], int h, unsigned counting, const Pairs& pairs, int mine, int start,
                    float hidden) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const unsigned bits = seen_keys(pairs, counting, mine + 8 * r + lane_row(), start) >> lane_column();
#pragma unroll
    for (int c = 0; c < 8; c++) {
      if (!(bits >> (c / 2 * 8 + c % 2) & 1)) s[16 * h + c / 2 * 4 + 2 * r + c % 2] = hidden;
    }
  }
}

// So among all of them.
template <int ROWS>
DEVICE void hide_pairs(float (&s)[ROWS / 2], const Pairs& pairs, int mine, int start, float hidden) {
#pragma unroll
  for (int h = 0; h < ROWS / 32; h++) {
    hide_32<ROWS>(s, h, counting_keys(pairs, start + 32 * h), pairs, mine, start + 32 * h, hidden);
  }
}

// ---- Outputs ------------------------------------------------------------------------------------------------------

// The warpgroup's sums, each row times its `scale`, into a tile of its 64 rows.
template <int WIDTH>
DEVICE void put_rows(unsigned char* tile, const float (&sum)[WIDTH / 2], const float (&scale)[2]) {
  const int lane = lane_number(), line = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int c = 0; c < WIDTH / 8; c += 2) {
    unsigned four[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      four[i] = pack_bf16(sum[4 * c + 2 * i] * scale[i % 2], sum[4 * c + 2 * i + 1] * scale[i % 2]);
    }
    stmatrix_x4(tile + c / 8 * (kHalf * kRow) + line * kRow + ((c % 8 + lane / 16) ^ line % 8) * 16, four);
  }
}

// Starts to write the tile from `row` on. By one thread.
template <int WIDTH>
DEVICE void store_rows(const TensorMap& map, const unsigned char* tile, int row, const Work& work) {
#pragma unroll
  for (int c = 0; c < WIDTH / 64; c++) {
    tma_store(map, tile + c * (kHalf * kRow), 64 * c, row, work.head, work.batch);
  }
}

// The warpgroup is done with what it owns, and has put outputs there: `store` starts to write them, by one thread.
template <class Store>
DEVICE void give_back(mbarrier* done, int barrier, const Store& store) {
  fence_async();
  named_barrier(barrier, 128);
  if (threadIdx.x % 128 == 0) {
    store();
    tma_store_commit();
    tma_store_wait_read<0>();
    mbarrier_arrive(done);
  }
}
