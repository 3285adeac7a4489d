// Matrix products in bf16 by Hopper's warpgroups (sm_90a): out (+)= epilogue(op(a) op(b) + bias) + residual.
//
// op(a) [M, K], op(b) [K, N], bias [N], pre, value, residual [M, N] in bf16; out [M, N] in bf16 or float. Rows of a and b
// begin at multiples of 16 bytes; a transposed operand is read where it lies. `residual` may be `out`, and `value` may
// be `pre`. Sums are in float: wgmma adds 16 products at a time to a register, along K (split K: each part of K so, then
// the parts in order), so their order depends on the shape alone.
//
// Roofline. 2 M N K FLOPs, 2 (M K + K N + M N) bytes. An H100 (989 TFLOP/s on paper, 3.35 TB/s) is compute-bound from 300
// FLOPs a byte on. A multiprocessor multiplies 2048 pairs a clock: a step of 64 along K of 128 x 128 outputs takes 512
// clocks, and brings 32 KiB, of 128 x 256 outputs 1024 clocks and 48 KiB.
//
// Roles. A block has a warpgroup that copies and two that multiply, and takes registers from the first for the others. It
// stays: one block for each multiprocessor, which takes tile after tile. One thread starts the copies of both operands,
// as many stages ahead as fit (kStages); a stage has a barrier that counts its bytes (`full`) and one that counts the
// warps which have read it (`empty`). Consumers run one group of products behind: a stage is given back when the group
// after it has been issued and its own is complete.
//   wgmma128   each consumer has tiles of 128 x 128 of its own, every second one. While one writes its outputs, the other
//              multiplies: short K, as in transformers of width 768, would leave the tensor cores idle otherwise. They take
//              turns (`turns`) at the stages.
//   wgmma256   both consumers share a tile of 128 x 256, 64 rows each: a quarter fewer bytes through the second-level
//              cache for a product; its epilogue overlaps with nothing but the copies for the next tile.
//   boxes256   as wgmma256, for outputs that the copy engine can write (common/boxes.cuh): its warps give them away
//              64 columns at a time, and go on with the next tile while they are on their way. Outputs in f32 (gradients of
//              weights), 32 columns at a time, have nothing around them, and are added to by the copy engine: each element
//              once, so that the order of sums stays the same.
// In all a thread has 128 sums. Where there are fewer tiles than multiprocessors and K is long (gradients of weights), K is
// cut in parts: whoever comes last to a tile adds those of all, in order.
//
// Other outputs go through 4 KiB of shared memory for each warp, 16 rows x 64 columns at a time: common/outputs.cuh.
#include "common/boxes.cuh"
#include "common/outputs.cuh"
#include "common/turn.cuh"
#include "ptx/barrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/ticket.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

constexpr int kDepth = 64;                     // Of K, in a stage: 128 bytes.
constexpr int kRow = 128;                      // Bytes of a row of a box.
constexpr int kBox = 64 * kRow;                // Bytes of 64 rows of a box.
constexpr int kTickets = 16384;                // unsigned, before the partial sums in the workspace
constexpr int kUnit = 128 * 128;               // Sums of a warpgroup.

// A tile of 64 steps of K of one operand: ROWS of op(a), or columns of op(b), from `first` on.
template <bool ALONG_K, int ROWS>
DEVICE void copy_tile(unsigned char* to, const TensorMap& map, mbarrier* full, int first, int l) {
  if constexpr (ALONG_K) {
    tma_load(to, map, full, l, first);
  } else {
#pragma unroll
    for (int i = 0; i < ROWS / 64; i++) tma_load(to + i * kBox, map, full, first + 64 * i, l);
  }
}

// What the tensor cores read of a tile, from row 64 `block` of op(a) (or column of op(b)) on and 16 `step` steps of K.
template <bool ALONG_K>
DEVICE unsigned long long operand(const unsigned char* tile, int block, int step) {
  return matrix_descriptor(tile + block * kBox + step * (ALONG_K ? 32 : 16 * kRow), kBox, 8 * kRow);
}

// The sums of a warpgroup to the workspace; true for the one that comes last, which then has those of all parts, added in
// their order. `id`: the named barrier of this warpgroup.
DEVICE bool add_parts(float* sums, unsigned* number, unsigned* workspace, int unit, int units, int part, int parts,
                      int id) {
  const int thread = threadIdx.x % 128;
  float* first = reinterpret_cast<float*>(workspace + kTickets) + (long long)unit * kUnit + 4 * thread;
  const long long apart = (long long)units * kUnit;
#pragma unroll
  for (int e = 0; e < 128; e += 4) {
    store(first + part * apart + e * 128, {{sums[e], sums[e + 1], sums[e + 2], sums[e + 3]}});
  }
  named_barrier(id, 128);
  if (thread == 0) number[0] = draw_ticket(workspace + unit);
  named_barrier(id, 128);
  const bool last = number[0] + 1 == (unsigned)parts;
  // (A next number is drawn behind a barrier that comes after this.)
  if (!last) return false;
  // For the launch after this one. All that happens to a ticket is atomic.
  if (thread == 0) atomicExch(workspace + unit, 0u);
#pragma unroll
  for (int e = 0; e < 128; e++) sums[e] = 0.0f;
#pragma unroll 1
  for (int p = 0; p < parts; p++) {
#pragma unroll
    for (int e = 0; e < 128; e += 4) {
      const Vec<float> more = load(first + p * apart + e * 128);
#pragma unroll
      for (int v = 0; v < 4; v++) sums[e + v] += more.v[v];
    }
  }
  return true;
}

// The `number`-th eighth of the sums. They are in registers, so which they are must be known to the compiler.
DEVICE void take_sums(float (&mine)[4][4], const float* sums, int number) {
#pragma unroll
  for (int q = 0; q < 8; q++) {
    if (q == number) {
#pragma unroll
      for (int e = 0; e < 16; e++) mine[e / 4][e % 4] = sums[16 * q + e];
    }
  }
}

// Where the copy engine writes out and what the epilogue keeps, or null.
struct OutputMaps {
  const TensorMap *out, *kept;
};

// `part`: steps of 64 along K that a tile takes; `parts` of them make K.
template <int WIDTH, bool BOXES, bool TA, bool TB, class Out>
DEVICE void linear_wgmma(const TensorMap& a, const TensorMap& b, OutputMaps maps, const Epilogue<bf16, Out>& around,
                         int m, int n, int k, int part, int parts, unsigned* workspace) {
  constexpr bool kShared = WIDTH == 256;           // Both consumers have the same tile.
  constexpr int kTileA = 128 * kRow, kTileB = WIDTH * kRow, kStage = kTileA + kTileB;
  constexpr int kStages = kShared ? 4 : 6;
  constexpr int kBlocks = kShared ? 1 : 2;         // Blocks of 64 rows of a consumer.
  constexpr int kWarps = kShared ? 8 : 4;          // That read a stage.
  SMEM_DYN(unsigned char, tiles);
  SMEM(mbarrier, full, [kStages]);
  SMEM(mbarrier, empty, [kStages]);
  SMEM(mbarrier, turns, [2]);
  SMEM(unsigned, numbers, [2]);
  if (threadIdx.x == 0) {
    if (!kShared) {
      mbarrier_init(turns, 4);
      mbarrier_init(turns + 1, 4);
    }
#pragma unroll
    for (int s = 0; s < kStages; s++) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, kWarps);
    }
    mbarrier_fence();
  }
  __syncthreads();

  const int depth = (k + kDepth - 1) / kDepth;
  const int tiles_mn = (m + 127) / 128 * ((n + WIDTH - 1) / WIDTH), count = tiles_mn * parts;
  const int group = threadIdx.x / 128;
  Turn turn = {0, 0};
  if (group == 2) {
    give_registers<40>();
    if (threadIdx.x != 256) return;
    tma_prefetch(a);
    tma_prefetch(b);
#pragma unroll 1
    for (int t = blockIdx.x; t < count; t += gridDim.x) {
      int row, column;
      tile_position<128, WIDTH>(t % tiles_mn, m, n, row, column);
      const int begin = t / tiles_mn * part, end = min(begin + part, depth);
#pragma unroll 1
      for (int l = begin; l < end; l++) {
        mbarrier_wait(empty + turn.stage, turn.parity ^ 1);
        mbarrier* here = full + turn.stage;
        unsigned char* stage = tiles + turn.stage * kStage;
        mbarrier_arrive_expect(here, kStage);
        copy_tile<!TA, 128>(stage, a, here, row, l * kDepth);
        copy_tile<TB, WIDTH>(stage + kTileA, b, here, column, l * kDepth);
        advance<kStages>(turn, 1);
      }
    }
    return;
  }

  take_registers<232>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Of a warpgroup: two boxes, or for each of its warps 16 rows of 64 sums.
  unsigned char* outputs = tiles + kStages * kStage + group * (kSlots * kSlot);
  float* staging = reinterpret_cast<float*>(outputs) + warp % 4 * (16 * 64);
  static_assert(kSlots * kSlot == 4 * 16 * 64 * 4, "both take all of it");
  Boxes boxes = {};
  if constexpr (BOXES) boxes = boxes_of(outputs, around, 1 + group);
  int number = 0;
#pragma unroll 1
  for (int t = blockIdx.x; t < count; t += gridDim.x, number++) {
    int row, column;
    tile_position<128, WIDTH>(t % tiles_mn, m, n, row, column);
    const int p = t / tiles_mn, begin = p * part, steps = min(begin + part, depth) - begin;
    if (!kShared && number % 2 != group) {
      advance<kStages>(turn, steps);
      continue;
    }
    // A barrier tells the last phase from the one before only. Once the other consumer has had all stages of its tile, the
    // phases before those of this one are over.
    if (!kShared) mbarrier_wait(turns + group, number / 2 + group + 1 & 1);
    float z[kBlocks][kBlocks == 1 ? 128 : 64];
    int before = 0;
#pragma unroll 1
    for (int l = 0; l < steps; l++) {
      mbarrier_wait(full + turn.stage, turn.parity);
      const unsigned char* stage = tiles + turn.stage * kStage;
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kDepth / 16; step++) {
        const unsigned long long right = operand<TB>(stage + kTileA, 0, step);
#pragma unroll
        for (int i = 0; i < kBlocks; i++) {
          wgmma_bf16<TA, !TB>(z[i], operand<!TA>(stage, kShared ? group : i, step), right, l > 0 || step > 0);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (l > 0 && lane == 0) mbarrier_arrive(empty + before);
      before = turn.stage;
      advance<kStages>(turn, 1);
    }
    if (!kShared && lane == 0) mbarrier_arrive(turns + 1 - group);
    wgmma_wait<0>();
    if (lane == 0) mbarrier_arrive(empty + before);

    float* sums = &z[0][0];
    if (parts > 1) {
      const int each = kShared ? 2 : 1, unit = t % tiles_mn * each + (kShared ? group : 0);
      if (!add_parts(sums, numbers + group, workspace, unit, tiles_mn * each, p, parts, 1 + group)) continue;
    }
    const int first = row + (kShared ? 64 * group : 0);
#pragma unroll 1
    for (int piece = 0; piece < 4; piece++) {
      const int down = first + (kShared ? 0 : piece / 2 * 64), across = column + 64 * (kShared ? piece : piece % 2);
      if (down >= m || across >= n) continue;
      if constexpr (BOXES && sizeof(Out) == sizeof(float)) {
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
          float mine[4][4];
          take_sums(mine, sums, 2 * piece + half);
          write_floats(boxes, *maps.out, around.accumulate, mine, down, across + 32 * half);
        }
      } else if constexpr (BOXES) {
        open_boxes(boxes);
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
          float mine[4][4];
          take_sums(mine, sums, 2 * piece + half);
          write_half(boxes, around, mine, down, across, half, m, n);
        }
        send_boxes(boxes, *maps.out, *maps.kept, down, across);
      } else {
        // As in `take_sums`.
#pragma unroll
        for (int q = 0; q < 4; q++) {
          if (q == piece) leave_sums<16, 64>(staging, reinterpret_cast<const float(&)[1][8][4]>(sums[32 * q]));
        }
        write_sums<16, 64, 2>(around, staging, down + warp % 4 * 16, across, m, n);
        __syncwarp();
      }
    }
  }
  // Shared memory outlives what is read of it.
  if (BOXES && threadIdx.x % 128 == 0) tma_store_wait_read<0>();
}

#define LINEAR_PARAMETERS(Out)                                                                                 \
  Out *out, int out_pitch, const bf16 *bias, int kind, int activation, bf16 *pre, int pre_pitch, bf16 *value,  \
      int value_pitch, const bf16 *residual, int residual_pitch, int accumulate, int m, int n, int k, int part, \
      int parts, unsigned *workspace
#define LINEAR_EPILOGUE                                                                                        \
  { out, out_pitch, bias, kind, activation, pre, pre_pitch, value, value_pitch, residual, residual_pitch, accumulate }

#define LINEAR(name, width, ta, tb, Out)                                                                       \
  KERNEL(name, 384, 1, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,               \
         LINEAR_PARAMETERS(Out)) {                                                                             \
    linear_wgmma<width, false, ta, tb, Out>(a, b, {}, LINEAR_EPILOGUE, m, n, k, part, parts, workspace);       \
  }
#define LINEAR_BOXES(name, width, ta, tb, Out)                                                                 \
  KERNEL(name, 384, 1, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,               \
         const __grid_constant__ TensorMap out_map, const __grid_constant__ TensorMap kept_map,                \
         LINEAR_PARAMETERS(Out)) {                                                                             \
    linear_wgmma<width, true, ta, tb, Out>(a, b, {&out_map, &kept_map}, LINEAR_EPILOGUE, m, n, k, part, parts, \
                                           workspace);                                                         \
  }

LINEAR(linear_wgmma128_nn_bf16, 128, false, false, bf16)
LINEAR(linear_wgmma128_nt_bf16, 128, false, true, bf16)
LINEAR(linear_wgmma128_tn_bf16, 128, true, false, bf16)
LINEAR(linear_wgmma128_tt_bf16, 128, true, true, bf16)
LINEAR(linear_wgmma128_nn_bf16_f32, 128, false, false, float)
LINEAR(linear_wgmma128_nt_bf16_f32, 128, false, true, float)
LINEAR(linear_wgmma128_tn_bf16_f32, 128, true, false, float)
LINEAR(linear_wgmma128_tt_bf16_f32, 128, true, true, float)

LINEAR(linear_wgmma256_nn_bf16, 256, false, false, bf16)
LINEAR(linear_wgmma256_nt_bf16, 256, false, true, bf16)
LINEAR(linear_wgmma256_tn_bf16, 256, true, false, bf16)
LINEAR(linear_wgmma256_tt_bf16, 256, true, true, bf16)
LINEAR(linear_wgmma256_nn_bf16_f32, 256, false, false, float)
LINEAR(linear_wgmma256_nt_bf16_f32, 256, false, true, float)
LINEAR(linear_wgmma256_tn_bf16_f32, 256, true, false, float)
LINEAR(linear_wgmma256_tt_bf16_f32, 256, true, true, float)

LINEAR_BOXES(linear_boxes256_nn_bf16, 256, false, false, bf16)
LINEAR_BOXES(linear_boxes256_nt_bf16, 256, false, true, bf16)
LINEAR_BOXES(linear_boxes256_tn_bf16, 256, true, false, bf16)
LINEAR_BOXES(linear_boxes256_tt_bf16, 256, true, true, bf16)
LINEAR_BOXES(linear_boxes256_nn_bf16_f32, 256, false, false, float)
LINEAR_BOXES(linear_boxes256_nt_bf16_f32, 256, false, true, float)
LINEAR_BOXES(linear_boxes256_tn_bf16_f32, 256, true, false, float)
LINEAR_BOXES(linear_boxes256_tt_bf16_f32, 256, true, true, float)
