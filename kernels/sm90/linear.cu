// Matrix products in bf16 by Hopper's warpgroups (sm_90a): out (+)= epilogue(op(a) op(b) + bias) + residual.
//
// op(a) [M, K], op(b) [K, N], bias [N], pre, value, residual [M, N] in bf16; out [M, N] in bf16 or float. Rows of a and
// b begin at multiples of 16 bytes; a transposed operand is read in place. `residual` may be `out`, and `value` may be
// `pre`. Sums are in float: wgmma adds 16 products at a time to a register, along K (split K: within each part of K,
// and then the parts are added in order), so their order depends on the shape alone.
//
// Roofline. 2 M N K FLOPs, 2 (M K + K N + M N) bytes. An H100 (989 TFLOP/s nominal, 3.35 TB/s) is compute-bound from
// 300 FLOPs per byte on. An SM multiplies 2048 pairs per clock: a step of 64 along K takes 512 clocks and loads 32 KiB
// for 128 x 128 outputs, 1024 clocks and 48 KiB for 128 x 256 outputs.
//
// Roles. A block has one producer warpgroup and two consumer warpgroups, which take over registers from the producer.
// Blocks are persistent: there is one per SM, and it processes tile after tile. One producer thread starts the loads of
// both operands, as many stages ahead as fit (kStages). Each stage has a barrier that counts its bytes (`full`) and one
// that counts the warps that have read it (`empty`). Consumers keep one group of wgmma in flight: a stage is released
// when the group after its own has been issued and its own is complete.
//
// Tiles. A stage of 128 x 256 is multiplied in 0.56 us; on an H100 it took 0.61 us when a third of the SMs were idle,
// 0.76 us when none was (docs/benchmarks.md). The limit seems to be the traffic of all SMs to L2, in bytes per clock:
//   128 x 128, 64 x 256   Ping-pong: each consumer has tiles of its own, every second one. While one writes its
//                         outputs, the other one multiplies; with short K, as in transformers of width 768, the tensor
//                         cores would idle otherwise. Consumers take the stages in turn, tile by tile (`order`). 64 and
//                         80 bytes; 64 rows are for small products.
//   128 x 256, 128 x 192  Cooperative: both consumers share a tile, 64 rows each: 48 and 53 bytes. An epilogue overlaps
//                         with nothing but the loads for the next tile. 192 divides 768, and occupies the GPU more
//                         evenly where 256 leaves few tiles for the last wave.
//   cluster2_128x256              The two blocks of a cluster have tiles of 128 x 256 above each other. Each loads its own rows
//                         of op(a), and half of the columns of op(b) for both: 32 bytes. A stage is filled again when
//                         the warps of both blocks have read it.
// `wgmma...` write their outputs row by row, through 4 KiB of shared memory per warp (common/outputs.cuh). The others
// leave this to TMA (common/tma_boxes.cuh): warpgroups hand over 64 columns of outputs at a time, and continue while these
// are being stored. Outputs in f32 (gradients of weights), 32 columns at a time, have no other epilogue operands, and
// TMA does the accumulation: it adds to each element once, so the order of sums stays the same.
//
// A thread has 128 sums, or 96 with tiles 192 wide. Where there are fewer tiles than SMs and K is long (gradients of
// weights), K is cut into parts: the block that finishes a tile last adds the sums of all parts, in order.
// common/tiles_sm90.cuh distributes the tiles.
#include "common/tma_boxes.cuh"
#include "common/outputs.cuh"
#include "common/tiles_sm90.cuh"
#include "common/pipeline.cuh"
#include "ptx/barrier.cuh"
#include "ptx/registers.cuh"
#include "ptx/ticket.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

constexpr int kTickets = 16384;  // Words for tickets in the workspace, before the partial sums.

// Loads a stage of one operand: ROWS rows of op(a), or columns of op(b), from `first` on, and steps of K from `l` on;
// multicast to BLOCKS blocks of the cluster.
template <bool ALONG_K, int ROWS, int BLOCKS>
DEVICE void load_tile(unsigned char* to, const TensorMap& map, mbarrier* full, int first, int l) {
  constexpr int kBoxRows = ALONG_K ? ROWS : 64;
#pragma unroll
  for (int i = 0; i < ROWS; i += kBoxRows) {
    const int x = ALONG_K ? l : first + i, y = ALONG_K ? first : l;
    if constexpr (BLOCKS > 1) {
      tma_load_all(to + i * kRowBytes, map, full, x, y, (1 << BLOCKS) - 1);
    } else {
      tma_load(to + i * kRowBytes, map, full, x, y);
    }
  }
}

// Producer, one thread: loads the stages of all of this block's tiles, one after another.
template <class T, bool TA, bool TB>
DEVICE void produce(const TensorMap& a, const TensorMap& b, const GemmShape& p, unsigned char* stages, mbarrier* full,
                    mbarrier* empty) {
  constexpr int kColumnsB = T::kWidth / T::kCluster;  // Columns of op(b) that this block loads.
  const int from = T::kCluster > 1 ? cluster_rank() * kColumnsB : 0, count = tile_count<T>(p) * p.parts;
  PipelineState state = {0, 0};
#pragma unroll 1
  for (int t = blockIdx.x / T::kCluster; t < count; t += gridDim.x / T::kCluster) {
    const WorkTile work = work_tile<T>(p, t);
#pragma unroll 1
    for (int l = work.begin; l < work.end; l++) {
      mbarrier_wait(empty + state.stage, state.parity ^ 1);
      mbarrier* loaded = full + state.stage;
      unsigned char* stage = stages + state.stage * T::kStageBytes;
      mbarrier_arrive_expect(loaded, T::kStageBytes);
      load_tile<!TA, T::kRows, 1>(stage, a, loaded, work.row, l * kDepth);
      load_tile<TB, kColumnsB, T::kCluster>(stage + T::kBytesA + from * kRowBytes, b, loaded, work.column + from,
                                            l * kDepth);
      advance<T::kStages>(state, 1);
    }
  }
}

// A warp has read a stage, which the loads of all blocks of the cluster fill.
template <class T>
DEVICE void consumer_release(mbarrier* empty) {
  const int lane = threadIdx.x % 32;
  if constexpr (T::kCluster > 1) {
    if (lane < T::kCluster) mbarrier_arrive_at(empty, lane);
  } else {
    if (lane == 0) mbarrier_arrive(empty);
  }
}

// Writes the sums of a warpgroup to the workspace. Returns true for the warpgroup that finishes last, which then has
// the sums of all parts, added in their order. `id`: the named barrier of this warpgroup.
template <int SUMS>
DEVICE bool add_parts(float* sums, unsigned* ticket, unsigned* workspace, int slot, int slots, int part, int parts,
                      int id) {
  const int thread = threadIdx.x % 128;
  float* first = reinterpret_cast<float*>(workspace + kTickets) + (long long)slot * (128 * SUMS) + 4 * thread;
  const long long part_stride = (long long)slots * (128 * SUMS);
#pragma unroll
  for (int e = 0; e < SUMS; e += 4) {
    store(first + part * part_stride + e * 128, {{sums[e], sums[e + 1], sums[e + 2], sums[e + 3]}});
  }
  named_barrier(id, 128);
  if (thread == 0) ticket[0] = draw_ticket(workspace + slot);
  named_barrier(id, 128);
  const bool last = ticket[0] + 1 == (unsigned)parts;
  // (`ticket` is overwritten only after a later barrier.)
  if (!last) return false;
  // Reset for the next launch. All accesses to a ticket are atomic.
  if (thread == 0) atomicExch(workspace + slot, 0u);
#pragma unroll
  for (int e = 0; e < SUMS; e++) sums[e] = 0.0f;
#pragma unroll 1
  for (int p = 0; p < parts; p++) {
#pragma unroll
    for (int e = 0; e < SUMS; e += 4) {
      const Vec<float> more = load(first + p * part_stride + e * 128);
#pragma unroll
      for (int v = 0; v < 4; v++) sums[e + v] += more.v[v];
    }
  }
  return true;
}

// Copies the `number`-th 16 of the sums. They are in registers, so the compiler must know their indices.
template <int SUMS>
DEVICE void take_sums(float (&half_sums)[4][4], const float* sums, int number) {
#pragma unroll
  for (int q = 0; q < SUMS / 16; q++) {
    if (q == number) {
#pragma unroll
      for (int e = 0; e < 16; e++) half_sums[e / 4][e % 4] = sums[16 * q + e];
    }
  }
}

// Where TMA stores the output, and what the epilogue saves, or null.
struct OutputMaps {
  const TensorMap *out, *saved;
};

// Consumer, one warpgroup: the matrix products and outputs of its tiles.
template <class T, bool TMA_STORE, bool TA, bool TB, class Out>
DEVICE void multiply(const GemmShape& p, OutputMaps maps, const Epilogue<bf16, Out>& epilogue, unsigned char* stages,
                     mbarrier* full, mbarrier* empty, mbarrier* order, unsigned* tickets, unsigned* workspace) {
  const int group = threadIdx.x / 128, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  const int count = tile_count<T>(p) * p.parts;
  unsigned char* outputs = stages + T::kStages * T::kStageBytes + group * kOutputBytes;
  float* staging = reinterpret_cast<float*>(outputs) + warp * (16 * 64);
  StoreBuffers buffers = {};
  if constexpr (TMA_STORE) buffers = store_buffers_of(outputs, epilogue, 1 + group);
  PipelineState state = {0, 0};
  int number = 0;
#pragma unroll 1
  for (int t = blockIdx.x / T::kCluster; t < count; t += gridDim.x / T::kCluster, number++) {
    const WorkTile work = work_tile<T>(p, t);
    const int steps = work.end - work.begin;
    if (!T::kCooperative && number % 2 != group) {
      advance<T::kStages>(state, steps);
      continue;
    }
    // A parity only distinguishes a phase from the one before it. Once the other consumer has received all stages of
    // its tile, the phases before those of this tile are over.
    if (!T::kCooperative) mbarrier_wait(order + group, number / 2 + group + 1 & 1);
    float z[T::kRowBlocks][T::kWidth / 2];
    int previous = 0;
#pragma unroll 1
    for (int l = 0; l < steps; l++) {
      mbarrier_wait(full + state.stage, state.parity);
      const unsigned char* stage = stages + state.stage * T::kStageBytes;
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kDepth / 16; step++) {
        const unsigned long long right = operand<TB>(stage + T::kBytesA, 0, step);
#pragma unroll
        for (int i = 0; i < T::kRowBlocks; i++) {
          wgmma_bf16<TA, !TB>(z[i], operand<!TA>(stage, T::kCooperative ? group : i, step), right, l > 0 || step > 0);
        }
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (l > 0) consumer_release<T>(empty + previous);
      previous = state.stage;
      advance<T::kStages>(state, 1);
    }
    if (!T::kCooperative && lane == 0) mbarrier_arrive(order + 1 - group);
    wgmma_wait<0>();
    consumer_release<T>(empty + previous);

    float* sums = &z[0][0];
    if (p.parts > 1) {
      constexpr int kSlotsPerTile = T::kCooperative ? 2 : 1;
      const int slot = work.tile * kSlotsPerTile + (T::kCooperative ? group : 0);
      const int slots = tile_count<T>(p) * T::kCluster * kSlotsPerTile;
      const bool last =
          add_parts<T::kSums>(sums, tickets + group, workspace, slot, slots, work.k_part, p.parts, 1 + group);
      if (!last) continue;
    }
    const int first = work.row + (T::kCooperative ? 64 * group : 0);
#pragma unroll 1
    for (int piece = 0; piece < T::kSums / 32; piece++) {
      constexpr int kBoxesAcross = T::kWidth / 64;
      const int row = first + piece / kBoxesAcross * 64, column = work.column + piece % kBoxesAcross * 64;
      if (row >= p.m || column >= p.n) continue;
      if constexpr (TMA_STORE && sizeof(Out) == sizeof(float)) {
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
          float half_sums[4][4];
          take_sums<T::kSums>(half_sums, sums, 2 * piece + half);
          write_float_box(buffers, *maps.out, epilogue.accumulate, half_sums, row, column + 32 * half);
        }
      } else if constexpr (TMA_STORE) {
        acquire_buffers(buffers);
#pragma unroll 1
        for (int half = 0; half < 2; half++) {
          float half_sums[4][4];
          take_sums<T::kSums>(half_sums, sums, 2 * piece + half);
          write_half_box(buffers, epilogue, half_sums, row, column, half, p.m, p.n);
        }
        store_box(buffers, *maps.out, *maps.saved, row, column);
      } else {
        // As in `take_sums`.
#pragma unroll
        for (int q = 0; q < T::kSums / 32; q++) {
          if (q == piece) stage_sums<16, 64>(staging, reinterpret_cast<const float(&)[1][8][4]>(sums[32 * q]));
        }
        write_sums<16, 64, 2>(epilogue, staging, row + warp * 16, column, p.m, p.n);
        __syncwarp();
      }
    }
  }
  // Shared memory must outlive the stores that read it.
  if (TMA_STORE && threadIdx.x % 128 == 0) tma_store_wait_read<0>();
}

template <class T, bool TMA_STORE, bool TA, bool TB, class Out>
DEVICE void linear_wgmma(const TensorMap& a, const TensorMap& b, OutputMaps maps, const Epilogue<bf16, Out>& epilogue,
                         int m, int n, int k, int part, int parts, unsigned* workspace) {
  SMEM_DYN(unsigned char, stages);
  SMEM(mbarrier, full, [T::kStages]);
  SMEM(mbarrier, empty, [T::kStages]);
  SMEM(mbarrier, order, [2]);
  SMEM(unsigned, tickets, [2]);
  if (threadIdx.x == 0) {
    if (!T::kCooperative) {
      mbarrier_init(order, 4);
      mbarrier_init(order + 1, 4);
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
  const GemmShape p = {m, n, (k + kDepth - 1) / kDepth, part, parts};
  if (threadIdx.x / 128 == 2) {
    give_registers<40>();
    if (threadIdx.x == 256) {
      tma_prefetch(a);
      tma_prefetch(b);
      produce<T, TA, TB>(a, b, p, stages, full, empty);
    }
  } else {
    take_registers<232>();
    multiply<T, TMA_STORE, TA, TB>(p, maps, epilogue, stages, full, empty, order, tickets, workspace);
  }
  // Blocks of the cluster arrive at each other's barriers.
  if constexpr (T::kCluster > 1) cluster_barrier();
}

#define LINEAR_PARAMETERS(Out)                                                                                 \
  Out *out, int out_pitch, const bf16 *bias, int kind, int activation, bf16 *pre, int pre_pitch, bf16 *value,  \
      int value_pitch, const bf16 *residual, int residual_pitch, int accumulate, int m, int n, int k, int part, \
      int parts, unsigned *workspace
#define LINEAR_EPILOGUE                                                                                        \
  { out, out_pitch, bias, kind, activation, pre, pre_pitch, value, value_pitch, residual, residual_pitch, accumulate }

#define LINEAR(name, rows, width, blocks, ta, tb, Out)                                                               \
  KERNEL_OF_CLUSTERS(name, blocks, 384, 1, const __grid_constant__ TensorMap a,                                      \
                     const __grid_constant__ TensorMap b, LINEAR_PARAMETERS(Out)) {                                  \
    linear_wgmma<TileShape<rows, width, blocks>, false, ta, tb, Out>(a, b, {}, LINEAR_EPILOGUE, m, n, k, part,       \
                                                                     parts, workspace);                              \
  }
#define LINEAR_TMA_STORE(name, rows, width, blocks, ta, tb, Out)                                                     \
  KERNEL_OF_CLUSTERS(name, blocks, 384, 1, const __grid_constant__ TensorMap a,                                      \
                     const __grid_constant__ TensorMap b, const __grid_constant__ TensorMap out_map,                 \
                     const __grid_constant__ TensorMap saved_map, LINEAR_PARAMETERS(Out)) {                          \
    linear_wgmma<TileShape<rows, width, blocks>, true, ta, tb, Out>(a, b, {&out_map, &saved_map}, LINEAR_EPILOGUE,   \
                                                                    m, n, k, part, parts, workspace);                \
  }

// All transposes, and both output types.
#define LINEARS(KIND, name, rows, width, blocks)                        \
  KIND(name##_nn_bf16, rows, width, blocks, false, false, bf16)         \
  KIND(name##_nt_bf16, rows, width, blocks, false, true, bf16)          \
  KIND(name##_tn_bf16, rows, width, blocks, true, false, bf16)          \
  KIND(name##_tt_bf16, rows, width, blocks, true, true, bf16)           \
  KIND(name##_nn_bf16_f32, rows, width, blocks, false, false, float)    \
  KIND(name##_nt_bf16_f32, rows, width, blocks, false, true, float)     \
  KIND(name##_tn_bf16_f32, rows, width, blocks, true, false, float)     \
  KIND(name##_tt_bf16_f32, rows, width, blocks, true, true, float)

LINEARS(LINEAR, linear_wgmma_128x128, 128, 128, 1)
LINEARS(LINEAR, linear_wgmma_128x256, 128, 256, 1)
LINEARS(LINEAR_TMA_STORE, linear_tma_store_64x256, 64, 256, 1)
LINEARS(LINEAR_TMA_STORE, linear_tma_store_128x128, 128, 128, 1)
LINEARS(LINEAR_TMA_STORE, linear_tma_store_128x192, 128, 192, 1)
LINEARS(LINEAR_TMA_STORE, linear_tma_store_128x256, 128, 256, 1)
LINEARS(LINEAR_TMA_STORE, linear_cluster2_128x256, 128, 256, 2)
