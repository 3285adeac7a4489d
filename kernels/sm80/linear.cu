// Matrix products in bf16 on tensor cores (sm_80 and later): out (+)= epilogue(op(a) op(b) + bias) + residual.
//
// op(a) [M, K], op(b) [K, N], bias [N], pre, value, residual [M, N] in bf16; out [M, N] in bf16 or float. Rows are
// `pitch` elements apart; a transposed operand is read in place. a and b, and their rows, begin at multiples of 16
// bytes. The other operands may have any alignment, and are accessed 16 bytes at a time where possible. `residual` may
// be `out`, and `value` may be `pre`. There may be a batch of products (gridDim.z): each operand except the bias then
// consists of that many matrices, which follow one another as blocks of rows.
//
// Sums are in float. mma adds 16 products at a time to a register, in the hardware's own order, and a register
// accumulates along K in steps of 16 (split K: within each part of K, and then the parts are added in order). So the
// order depends on the shape alone.
//
// Roofline. 2 M N K FLOPs, 2 (M K + K N + M N) bytes: an A100 (312 TFLOP/s, 1.6 TB/s) is compute-bound from 200 FLOPs
// per byte on, which M = N = K = 600 reaches, as do most products of a transformer. The difficulty is to feed the
// tensor cores: an SM of the A100 multiplies 1024 pairs per clock, and reads 128 bytes per clock from shared memory.
//   mma_128x128   128 x 128 outputs per block, 64 x 64 per warp. For 16 steps of K a warp reads 4 KiB by ldmatrix for 65,536
//            products: with the copies into the tiles that is 192 clocks of shared memory for 256 of the tensor cores.
//            Warps of 64 x 32 would take 256 for 256. A thread holds 128 sums and, so that ldmatrix runs ahead of mma,
//            two steps of fragments (64 registers): two blocks of 4 warps per SM.
//   mma_64x64    64 x 64 per block, 32 x 32 per warp: four times as many blocks, for products with few outputs. Shared
//            memory is the bottleneck (96 clocks for 64), but four blocks per SM wait for one another less.
//   splitk   mma_128x128 with K cut into gridDim.y parts, where there are fewer tiles than SMs and K is long (gradients of
//            weights). Every block writes its sums to the workspace; the block that finishes last adds them, part by
//            part.
//
// Tiles arrive by cp.async, kStages - 1 tiles ahead: 4 stages of 16 KiB, which hold the outputs at the end. There is
// one barrier per tile of 32 steps: after it the next tile is visible to all threads, and no thread still reads the
// previous one, whose stage the next copies overwrite.
#include "common/bands.cuh"
#include "common/mma_tile.cuh"
#include "common/outputs.cuh"
#include "ptx/mma.cuh"
#include "ptx/ticket.cuh"

constexpr int kStages = 4;
constexpr int kTickets = 16384;  // Words for tickets in the workspace, before the partial sums.

// ---- Split K ------------------------------------------------------------------------------------------------------

// Writes the SIZE sums of each warp to the workspace. Returns true in the block that finishes last, whose `outputs`
// then hold the sums of all parts, added in their order, whichever block is last. A part has the same layout in the
// workspace as in shared memory. Other blocks write to the workspace, so nothing here is `__restrict__`.
template <int SIZE>
DEVICE bool add_parts(float* outputs, unsigned* workspace) {
  SMEM(unsigned, number, [1]);
  constexpr int kAhead = 8;  // Loads of a part; with 4 parts at a time enough are in flight.
  static_assert(SIZE % (128 * kAhead) == 0, "all lanes must have the same number of iterations");
  const int lane = threadIdx.x % 32;
  const unsigned at = blockIdx.z * gridDim.x + blockIdx.x;
  const long long part_stride = (long long)gridDim.z * gridDim.x * (blockDim.x / 32 * SIZE);
  float* tile =
      reinterpret_cast<float*>(workspace + kTickets) + ((long long)at * (blockDim.x / 32) + threadIdx.x / 32) * SIZE;
#pragma unroll 8
  for (int e = 4 * lane; e < SIZE; e += 128) store(tile + blockIdx.y * part_stride + e, load(outputs + e));
  __syncthreads();
  if (threadIdx.x == 0) number[0] = draw_ticket(workspace + at);
  __syncthreads();
  if (number[0] + 1 < gridDim.y) return false;
  // Reset for the next launch. All accesses to a ticket are atomic.
  if (threadIdx.x == 0) atomicExch(workspace + at, 0u);
#pragma unroll 1
  for (int e = 4 * lane; e < SIZE; e += 128 * kAhead) {
    Vec<float> sums[kAhead] = {};
#pragma unroll 4
    for (int part = 0; part < (int)gridDim.y; part++) {
#pragma unroll
      for (int q = 0; q < kAhead; q++) {
        const Vec<float> more = load(tile + part * part_stride + e + 128 * q);
#pragma unroll
        for (int v = 0; v < 4; v++) sums[q].v[v] += more.v[v];
      }
    }
#pragma unroll
    for (int q = 0; q < kAhead; q++) store(outputs + e + 128 * q, sums[q]);
  }
  __syncwarp();
  return true;
}

// ---- The matrix product -------------------------------------------------------------------------------------------

// `part`: tiles of K per block; blockIdx.y is the number of the part.
template <int SIDE, bool SPLIT, bool TA, bool TB, class Out>
DEVICE void linear_mma(const bf16* __restrict__ a, int a_pitch, const bf16* __restrict__ b, int b_pitch,
                       const Epilogue<bf16, Out>& epilogue, int m, int n, int k, int part, unsigned* workspace) {
  constexpr int kThreads = 128, kWarpSide = SIDE / 2;  // Four warps, 2 x 2.
  constexpr int kTile = SIDE * kDepth;
  SMEM_DYN(bf16, tiles);
  int row, column;
  tile_position<SIDE, SIDE>(blockIdx.x, m, n, row, column);
  a += matrix_start(TA ? k : m, a_pitch);
  b += matrix_start(TB ? n : k, b_pitch);
  const int warp = threadIdx.x / 32;
  const int i = warp / 2 * kWarpSide, j = warp % 2 * kWarpSide;
  const int begin = SPLIT ? blockIdx.y * part : 0;
  const int count = SPLIT ? min(part, (k + kDepth - 1) / kDepth - begin) : (k + kDepth - 1) / kDepth;

  auto copies_a = copies_of<!TA, SIDE, kThreads>(a, a_pitch, row, m, begin * kDepth, k);
  auto copies_b = copies_of<TB, SIDE, kThreads>(b, b_pitch, column, n, begin * kDepth, k);
  const int at_a = fragments_at<!TA, SIDE, true>(i), at_b = kTile + fragments_at<TB, SIDE, false>(j);
#pragma unroll
  for (int stage = 0; stage < kStages - 1; stage++) {
    if (stage < count) {
      copy_tile(tiles + stage * 2 * kTile, copies_a);
      copy_tile(tiles + stage * 2 * kTile + kTile, copies_b);
    }
    cp_async_commit();
  }

  float z[kWarpSide / 16][kWarpSide / 8][4] = {};
  unsigned left[2][kWarpSide / 16][4], right[2][kWarpSide / 16][4];
  const bf16* now = tiles;
  bf16* next = tiles + (kStages - 1) * 2 * kTile;
  cp_async_wait<kStages - 2>();
  __syncthreads();
  load_fragments<!TA, SIDE>(left[0], now, at_a, 0);
  load_fragments<TB, SIDE>(right[0], now, at_b, 0);
#pragma unroll 1
  for (int t = 0; t < count; t++) {
#pragma unroll
    for (int step = 0; step < 2; step++) {
      if (step == 0) {
        load_fragments<!TA, SIDE>(left[1], now, at_a, 1);
        load_fragments<TB, SIDE>(right[1], now, at_b, 1);
        if (t + kStages - 1 < count) {
          copy_tile(next, copies_a);
          copy_tile(next + kTile, copies_b);
          next = next == tiles + (kStages - 1) * 2 * kTile ? tiles : next + 2 * kTile;
        }
        // One group per tile, even if it is empty, so that the wait counts groups alike to the end.
        cp_async_commit();
      } else {
        cp_async_wait<kStages - 2>();
        __syncthreads();
        // After the last tile its fragments are loaded once more, without use: this avoids a branch among the products.
        if (t + 1 < count) now = now == tiles + (kStages - 1) * 2 * kTile ? tiles : now + 2 * kTile;
        load_fragments<!TA, SIDE>(left[0], now, at_a, 0);
        load_fragments<TB, SIDE>(right[0], now, at_b, 0);
      }
#pragma unroll
      for (int r = 0; r < kWarpSide / 16; r++) {
#pragma unroll
        for (int c = 0; c < kWarpSide / 8; c++) {
          mma_bf16(z[r][c], left[step][r], right[step][c / 2][c % 2 * 2], right[step][c / 2][c % 2 * 2 + 1]);
        }
      }
    }
  }

  static_assert(SIDE * SIDE * 4 <= kStages * 2 * kTile * 2, "the outputs must fit in the stages");
  float* outputs = reinterpret_cast<float*>(tiles) + warp * (kWarpSide * kWarpSide);
  // No thread reads the tiles after this barrier.
  __syncthreads();
  stage_sums<kWarpSide, kWarpSide>(outputs, z);
  if constexpr (SPLIT) {
    if (gridDim.y > 1 && !add_parts<kWarpSide * kWarpSide>(outputs, workspace)) return;
  }
  // The epilogue operands take the registers of fragments and sums.
  write_sums<kWarpSide, kWarpSide, sizeof(Out) == sizeof(bf16) ? 4 : 8>(in_batch(epilogue, m), outputs, row + i,
                                                                        column + j, m, n);
}

#define LINEAR_PARAMETERS(Out)                                                                                       \
  const bf16 *__restrict__ a, int a_pitch, const bf16 *__restrict__ b, int b_pitch, Out *out, int out_pitch,         \
      const bf16 *bias, int kind, int activation, bf16 *pre, int pre_pitch, bf16 *value, int value_pitch,            \
      const bf16 *residual, int residual_pitch, int accumulate, int m, int n, int k
#define LINEAR_EPILOGUE \
  { out, out_pitch, bias, kind, activation, pre, pre_pitch, value, value_pitch, residual, residual_pitch, accumulate }

#define LINEAR_128(name, ta, tb, Out)                                                                            \
  KERNEL(name, 128, 2, LINEAR_PARAMETERS(Out), int part, unsigned* workspace) {                                  \
    linear_mma<128, true, ta, tb, Out>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k, part, workspace);       \
  }
#define LINEAR_64(name, ta, tb, Out)                                                                             \
  KERNEL(name, 128, 4, LINEAR_PARAMETERS(Out)) {                                                                 \
    linear_mma<64, false, ta, tb, Out>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k, 0, nullptr);            \
  }

LINEAR_128(linear_mma_128x128_nn_bf16, false, false, bf16)
LINEAR_128(linear_mma_128x128_nt_bf16, false, true, bf16)
LINEAR_128(linear_mma_128x128_tn_bf16, true, false, bf16)
LINEAR_128(linear_mma_128x128_tt_bf16, true, true, bf16)
LINEAR_128(linear_mma_128x128_nn_bf16_f32, false, false, float)
LINEAR_128(linear_mma_128x128_nt_bf16_f32, false, true, float)
LINEAR_128(linear_mma_128x128_tn_bf16_f32, true, false, float)
LINEAR_128(linear_mma_128x128_tt_bf16_f32, true, true, float)

LINEAR_64(linear_mma_64x64_nn_bf16, false, false, bf16)
LINEAR_64(linear_mma_64x64_nt_bf16, false, true, bf16)
LINEAR_64(linear_mma_64x64_tn_bf16, true, false, bf16)
LINEAR_64(linear_mma_64x64_tt_bf16, true, true, bf16)
LINEAR_64(linear_mma_64x64_nn_bf16_f32, false, false, float)
LINEAR_64(linear_mma_64x64_nt_bf16_f32, false, true, float)
LINEAR_64(linear_mma_64x64_tn_bf16_f32, true, false, float)
LINEAR_64(linear_mma_64x64_tt_bf16_f32, true, true, float)
