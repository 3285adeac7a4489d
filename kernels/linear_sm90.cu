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
//
// Tiles. A stage of 128 x 256 is multiplied in 0.56 us; on an H100 it took 0.61 where a third of the multiprocessors idled,
// 0.76 where none did (docs/benchmarks.md): what all of them ask of the second-level cache seems to be the limit. In bytes a clock:
//   128 x 128, 64 x 256   each consumer has tiles of its own, every second one. While one writes its outputs, the other
//                         multiplies: short K, as in transformers of width 768, would leave the tensor cores idle otherwise.
//                         They take turns (`turns`) at the stages. 64 and 80 bytes; 64 rows are for small products.
//   128 x 256, 128 x 192  both consumers share a tile, 64 rows each: 48 and 53 bytes. An epilogue overlaps with
//                         nothing but the copies for the next tile. 192 divides 768, and fills the chip more evenly where
//                         256 leaves few tiles for the last round.
//   pairs256              the two blocks of a cluster have tiles of 128 x 256 above each other. Each brings its rows of op(a)
//                         for itself and half of the columns of op(b) for both: 32 bytes. A stage is filled again
//                         when the warps of both have read it.
// `wgmma...` write their outputs row by row, through 4 KiB of shared memory for each warp (common/outputs.cuh). The others leave it to
// the copy engine (common/boxes.cuh): warps give outputs away 64 columns at a time, and go on while those are on their way.
// Outputs in f32 (gradients of weights), 32 columns at a time, have nothing around them, and are added to by the copy engine:
// each element once, so that the order of sums stays the same.
//
// A thread has 128 sums, of a tile 192 wide 96. Where there are fewer tiles than multiprocessors and K is long (gradients
// of weights), K is cut in parts: whoever comes last to a tile adds those of all, in order. common/tiles_sm90.cuh shares
// out the tiles.
#include "common/boxes.cuh"
#include "common/outputs.cuh"
#include "common/tiles_sm90.cuh"
#include "common/turn.cuh"
#include "ptx/barrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/ticket.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

constexpr int kTickets = 16384;  // unsigned, before the partial sums in the workspace

// A stage of one operand: ROWS of op(a), or columns of op(b), from `first` on; for ALL blocks of the cluster.
template <bool ALONG_K, int ROWS, int ALL>
DEVICE void copy_tile(unsigned char* to, const TensorMap& map, mbarrier* full, int first, int l) {
  constexpr int kEach = ALONG_K ? ROWS : 64;
#pragma unroll
  for (int i = 0; i < ROWS; i += kEach) {
    const int x = ALONG_K ? l : first + i, y = ALONG_K ? first : l;
    if constexpr (ALL > 1) {
      tma_load_all(to + i * kRow, map, full, x, y, (1 << ALL) - 1);
    } else {
      tma_load(to + i * kRow, map, full, x, y);
    }
  }
}

// By one thread: stage after stage of all of this block's tiles.
template <class T, bool TA, bool TB>
DEVICE void bring(const TensorMap& a, const TensorMap& b, const Product& p, unsigned char* stages, mbarrier* full,
                  mbarrier* empty) {
  constexpr int kMine = T::kWidth / T::kCluster;  // Columns of op(b) that this block brings.
  const int from = T::kCluster > 1 ? cluster_rank() * kMine : 0, count = tiles<T>(p) * p.parts;
  Turn turn = {0, 0};
#pragma unroll 1
  for (int t = blockIdx.x / T::kCluster; t < count; t += gridDim.x / T::kCluster) {
    const Work work = work_at<T>(p, t);
#pragma unroll 1
    for (int l = work.begin; l < work.end; l++) {
      mbarrier_wait(empty + turn.stage, turn.parity ^ 1);
      mbarrier* here = full + turn.stage;
      unsigned char* stage = stages + turn.stage * T::kStage;
      mbarrier_arrive_expect(here, T::kStage);
      copy_tile<!TA, T::kRows, 1>(stage, a, here, work.row, l * kDepth);
      copy_tile<TB, kMine, T::kCluster>(stage + T::kTileA + from * kRow, b, here, work.column + from, l * kDepth);
      advance<T::kStages>(turn, 1);
    }
  }
}

// A warp has read a stage, which the copies of all blocks of the cluster go to.
template <class T>
DEVICE void release(mbarrier* empty) {
  const int lane = threadIdx.x % 32;
  if constexpr (T::kCluster > 1) {
    if (lane < T::kCluster) mbarrier_arrive_at(empty, lane);
  } else {
    if (lane == 0) mbarrier_arrive(empty);
  }
}

// The sums of a warpgroup to the workspace; true for the one that comes last, which then has those of all parts, added in
// their order. `id`: the named barrier of this warpgroup.
template <int SUMS>
DEVICE bool add_parts(float* sums, unsigned* number, unsigned* workspace, int unit, int units, int part, int parts,
                      int id) {
  const int thread = threadIdx.x % 128;
  float* first = reinterpret_cast<float*>(workspace + kTickets) + (long long)unit * (128 * SUMS) + 4 * thread;
  const long long apart = (long long)units * (128 * SUMS);
#pragma unroll
  for (int e = 0; e < SUMS; e += 4) {
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
  for (int e = 0; e < SUMS; e++) sums[e] = 0.0f;
#pragma unroll 1
  for (int p = 0; p < parts; p++) {
#pragma unroll
    for (int e = 0; e < SUMS; e += 4) {
      const Vec<float> more = load(first + p * apart + e * 128);
#pragma unroll
      for (int v = 0; v < 4; v++) sums[e + v] += more.v[v];
    }
  }
  return true;
}

// The `number`-th 16 of the sums. They are in registers, so which they are must be known to the compiler.
template <int SUMS>
DEVICE void take_sums(float (&mine)[4][4], const float* sums, int number) {
#pragma unroll
  for (int q = 0; q < SUMS / 16; q++) {
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

// By a warpgroup: the products and outputs of its tiles.
template <class T, bool BOXES, bool TA, bool TB, class Out>
DEVICE void multiply(const Product& p, OutputMaps maps, const Epilogue<bf16, Out>& around, unsigned char* stages,
                     mbarrier* full, mbarrier* empty, mbarrier* turns, unsigned* numbers, unsigned* workspace) {
  const int group = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  const int count = tiles<T>(p) * p.parts;
  unsigned char* outputs = stages + T::kStages * T::kStage + group * kOutputs;
  float* staging = reinterpret_cast<float*>(outputs) + warp * (16 * 64);
  Boxes boxes = {};
  if constexpr (BOXES) boxes = boxes_of(outputs, around, 1 + group);
  Turn turn = {0, 0};
  int number = 0;
#pragma unroll 1
  for (int t = blockIdx.x / T::kCluster; t < count; t += gridDim.x / T::kCluster, number++) {
    const Work work = work_at<T>(p, t);
    const int steps = work.end - work.begin;
    if (!T::kShared && number % 2 != group) {
      advance<T::kStages>(turn, steps);
      continue;
    }
    // A barrier tells the last phase from the one before only. Once the other consumer has had all stages of its tile, the
    // phases before those of this one are over.
    if (!T::kShared) mbarrier_wait(turns + group, number / 2 + group + 1 & 1);
    float z[T::kBlocks][T::kWidth / 2];
    int before = 0;
#pragma unroll 1
    for (int l = 0; l < steps; l++) {
      mbarrier_wait(full + turn.stage, turn.parity);
      const unsigned char* stage = stages + turn.stage * T::kStage;
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kDepth / 16; step++) {
        const unsigned long long right = operand<TB>(stage + T::kTileA, 0, step);
#pragma unroll
        for (int i = 0; i < T::kBlocks; i++) {
          wgmma_bf16<TA, !TB>(z[i], operand<!TA>(stage, T::kShared ? group : i, step), right, l > 0 || step > 0);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (l > 0) release<T>(empty + before);
      before = turn.stage;
      advance<T::kStages>(turn, 1);
    }
    if (!T::kShared && lane == 0) mbarrier_arrive(turns + 1 - group);
    wgmma_wait<0>();
    release<T>(empty + before);

    float* sums = &z[0][0];
    if (p.parts > 1) {
      constexpr int kUnits = T::kShared ? 2 : 1;
      const int unit = work.tile * kUnits + (T::kShared ? group : 0), units = tiles<T>(p) * T::kCluster * kUnits;
      const bool last =
          add_parts<T::kSums>(sums, numbers + group, workspace, unit, units, work.of_k, p.parts, 1 + group);
      if (!last) continue;
    }
    const int first = work.row + (T::kShared ? 64 * group : 0);
#pragma unroll 1
    for (int piece = 0; piece < T::kSums / 32; piece++) {
      constexpr int kAcross = T::kWidth / 64;
      const int down = first + piece / kAcross * 64, across = work.column + piece % kAcross * 64;
      if (down >= p.m || across >= p.n) continue;
      if constexpr (BOXES && sizeof(Out) == sizeof(float)) {
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
          float mine[4][4];
          take_sums<T::kSums>(mine, sums, 2 * piece + half);
          write_floats(boxes, *maps.out, around.accumulate, mine, down, across + 32 * half);
        }
      } else if constexpr (BOXES) {
        open_boxes(boxes);
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
          float mine[4][4];
          take_sums<T::kSums>(mine, sums, 2 * piece + half);
          write_half(boxes, around, mine, down, across, half, p.m, p.n);
        }
        send_boxes(boxes, *maps.out, *maps.kept, down, across);
      } else {
        // As in `take_sums`.
#pragma unroll
        for (int q = 0; q < T::kSums / 32; q++) {
          if (q == piece) leave_sums<16, 64>(staging, reinterpret_cast<const float(&)[1][8][4]>(sums[32 * q]));
        }
        write_sums<16, 64, 2>(around, staging, down + warp * 16, across, p.m, p.n);
        __syncwarp();
      }
    }
  }
  // Shared memory outlives what is read of it.
  if (BOXES && threadIdx.x % 128 == 0) tma_store_wait_read<0>();
}

template <class T, bool BOXES, bool TA, bool TB, class Out>
DEVICE void linear_wgmma(const TensorMap& a, const TensorMap& b, OutputMaps maps, const Epilogue<bf16, Out>& around,
                         int m, int n, int k, int part, int parts, unsigned* workspace) {
  SMEM_DYN(unsigned char, stages);
  SMEM(mbarrier, full, [T::kStages]);
  SMEM(mbarrier, empty, [T::kStages]);
  SMEM(mbarrier, turns, [2]);
  SMEM(unsigned, numbers, [2]);
  if (threadIdx.x == 0) {
    if (!T::kShared) {
      mbarrier_init(turns, 4);
      mbarrier_init(turns + 1, 4);
    }
#pragma unroll
    for (int s = 0; s < T::kStages; s++) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, T::kReaders);
    }
    mbarrier_fence();
  }
  if constexpr (T::kCluster > 1) {
    cluster_barrier();
  } else {
    __syncthreads();
  }
  const Product p = {m, n, (k + kDepth - 1) / kDepth, part, parts};
  if (threadIdx.x / 128 == 2) {
    give_registers<40>();
    if (threadIdx.x == 256) {
      tma_prefetch(a);
      tma_prefetch(b);
      bring<T, TA, TB>(a, b, p, stages, full, empty);
    }
  } else {
    take_registers<232>();
    multiply<T, BOXES, TA, TB>(p, maps, around, stages, full, empty, turns, numbers, workspace);
  }
  // Other blocks arrive at the barriers of this one.
  if constexpr (T::kCluster > 1) cluster_barrier();
}

#define LINEAR_PARAMETERS(Out)                                                                                 \
  Out *out, int out_pitch, const bf16 *bias, int kind, int activation, bf16 *pre, int pre_pitch, bf16 *value,  \
      int value_pitch, const bf16 *residual, int residual_pitch, int accumulate, int m, int n, int k, int part, \
      int parts, unsigned *workspace
#define LINEAR_EPILOGUE                                                                                        \
  { out, out_pitch, bias, kind, activation, pre, pre_pitch, value, value_pitch, residual, residual_pitch, accumulate }

#define LINEAR(name, rows, width, blocks, ta, tb, Out)                                                         \
  KERNEL_OF_CLUSTERS(name, blocks, 384, 1, const __grid_constant__ TensorMap a,                                \
                     const __grid_constant__ TensorMap b, LINEAR_PARAMETERS(Out)) {                            \
    linear_wgmma<Tile<rows, width, blocks>, false, ta, tb, Out>(a, b, {}, LINEAR_EPILOGUE, m, n, k, part,      \
                                                                parts, workspace);                             \
  }
#define LINEAR_BOXES(name, rows, width, blocks, ta, tb, Out)                                                   \
  KERNEL_OF_CLUSTERS(name, blocks, 384, 1, const __grid_constant__ TensorMap a,                                \
                     const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap out_map,           \
                     const __grid_constant__ TensorMap kept_map, LINEAR_PARAMETERS(Out)) {                     \
    linear_wgmma<Tile<rows, width, blocks>, true, ta, tb, Out>(a, b, {&out_map, &kept_map}, LINEAR_EPILOGUE,   \
                                                               m, n, k, part, parts, workspace);               \
  }

// Of all transposes, and of both types of outputs.
#define LINEARS(KIND, name, rows, width, blocks)                        \
  KIND(name##_nn_bf16, rows, width, blocks, false, false, bf16)         \
  KIND(name##_nt_bf16, rows, width, blocks, false, true, bf16)          \
  KIND(name##_tn_bf16, rows, width, blocks, true, false, bf16)          \
  KIND(name##_tt_bf16, rows, width, blocks, true, true, bf16)           \
  KIND(name##_nn_bf16_f32, rows, width, blocks, false, false, float)    \
  KIND(name##_nt_bf16_f32, rows, width, blocks, false, true, float)     \
  KIND(name##_tn_bf16_f32, rows, width, blocks, true, false, float)     \
  KIND(name##_tt_bf16_f32, rows, width, blocks, true, true, float)

LINEARS(LINEAR, linear_wgmma128, 128, 128, 1)
LINEARS(LINEAR, linear_wgmma256, 128, 256, 1)
LINEARS(LINEAR_BOXES, linear_boxes64, 64, 256, 1)
LINEARS(LINEAR_BOXES, linear_boxes128, 128, 128, 1)
LINEARS(LINEAR_BOXES, linear_boxes192, 128, 192, 1)
LINEARS(LINEAR_BOXES, linear_boxes256, 128, 256, 1)
LINEARS(LINEAR_BOXES, linear_pairs256, 128, 256, 2)
