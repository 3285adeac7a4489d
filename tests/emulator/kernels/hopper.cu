// Matrix products with TMA, mbarriers and wgmma: correct ones of every layout, and the same with one defect each.
//
// out [64, N] = a b over `steps` steps of 64 along K. Warps 0 to 3 multiply; a thread of warp 4 loads the tiles, into
// two stages. The line that must be reported, or one of several, ends in a comment with an arrow and the names of
// defects, or follows such comments.
#include "common/kernel.cuh"
#include "ptx/barrier.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/proxy.cuh"
#include "ptx/registers.cuh"
#include "ptx/tma.cuh"
#include "ptx/wgmma.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_hopper() { return 1; }

enum Bug {
  kNone,
  kWrongParity,
  kProducersWrongParity,
  kTooFewBytes,
  kTooManyBytes,
  kNoExpect,
  kNoInit,
  kNoInitFence,
  kNoBarrierAfterInit,
  kTwoInits,
  kNoWait,
  kArrivesTwice,
  kReleasesTwice,
  kReleasedEarly,
  kReleasedByOneWarp,
  kNoFence,
  kTouchedAfterFence,
  kTouchedInFlight,
  kNoCommit,
  kNoWgmmaWait,
  kNoLastWait,
  kPipelined,  // correct
  kPipelinedEarly,
  kWrongStride,
  kWrongLeading,
  kWrongStep,
  kNoSwizzle,
  kMisalignedTile,
  kTileOutside,
  kMisalignedMbarrier,
  kMbarrierInGlobal,
  kProxyFence,  // correct
  kNoProxyFence,
  kHalfAWarp,
  kThreeWarps,
  kLastCopyUnused,
  kRegisters,  // correct
  kOperandOverwritten,
  kOperandAfterFence,
};

constexpr int kStages = 2;

// Whether the left operand is in registers.
constexpr bool in_registers(Bug bug) {
  return bug == kRegisters || bug == kOperandOverwritten || bug == kOperandAfterFence;
}

template <bool TA, bool TB, int N, Bug BUG>
DEVICE void product(const TensorMap& a, const TensorMap& b, float* out, int steps) {
  constexpr int left = 64 * 128, stage = left + N * 128;
  SMEM_DYN(unsigned char, tiles);
  SMEM(mbarrier, full, [kStages]);
  SMEM(mbarrier, empty, [kStages]);
  const int t = threadIdx.x, warp = t / 32;
  if (t == 0) {
    for (int s = 0; s < kStages; s++) {
      if (BUG != kNoInit) mbarrier_init(&full[s], 1);
      mbarrier_init(&empty[s], BUG == kReleasedByOneWarp ? 1 : 4);
    }
    if (BUG == kTwoInits) mbarrier_init(&full[0], 1);  // <- kTwoInits
    if (BUG != kNoInitFence) mbarrier_fence();
  }
  if (BUG != kNoBarrierAfterInit) __syncthreads();
  if (BUG == kMisalignedTile) tiles += 128;
  if (warp == 4) {
    give_registers<24>();
    if (t % 32 > 0) return;
    tma_prefetch(a);
    for (int i = 0; i < steps + (BUG == kLastCopyUnused); i++) {
      const int s = i % kStages, turn = i / kStages;
      unsigned char* tile = tiles + s * (BUG == kTileOutside ? 3 : 1) * stage;
      mbarrier_wait(&empty[s], BUG == kProducersWrongParity ? turn & 1 : ~turn & 1);
      if (BUG == kNoExpect)
        mbarrier_arrive(&full[s]);
      else
        mbarrier_arrive_expect(&full[s], stage - (BUG == kTooFewBytes) * 8192 + (BUG == kTooManyBytes) * 16);
      if (BUG == kArrivesTwice) mbarrier_arrive(&full[s]);  // <- kArrivesTwice
      // <- kMisalignedTile, kNoInitFence, kReleasedEarly, kReleasedByOneWarp, kTileOutside, kTooFewBytes
      // <- kNoCommit, kNoWgmmaWait, kPipelinedEarly, kLastCopyUnused
      tma_load(tile, a, &full[s], TA ? 0 : 64 * i, TA ? 64 * i : 0);
      for (int n = 0; n < N; n += 64)
        // <- kTooFewBytes, kLastCopyUnused
        tma_load(tile + left + 128 * n, b, &full[s], TB ? n : 64 * i, TB ? 64 * i : n);
    }
    return;
  }
  take_registers<240>();
  float d[N / 2];
  unsigned left_of[4][4];
  for (int i = 0; i < steps; i++) {
    const int s = i % kStages, turn = i / kStages;
    unsigned char* tile = tiles + s * stage;
    if (BUG == kMisalignedMbarrier) {
      mbarrier_wait(reinterpret_cast<mbarrier*>(reinterpret_cast<char*>(&full[s]) + 4), 0);  // <- kMisalignedMbarrier
    } else if (BUG == kMbarrierInGlobal) {
      mbarrier_wait(reinterpret_cast<mbarrier*>(out), 0);  // <- kMbarrierInGlobal
    } else if (BUG != kNoWait) {
      // <- kNoInit, kTooManyBytes, kProducersWrongParity
      mbarrier_wait(&full[s], BUG == kWrongParity ? ~turn & 1 : turn & 1);
    }
    if (BUG == kProxyFence || BUG == kNoProxyFence) {
      volatile unsigned char* first = tile;
      if (t == 5) *first = *first;
      if (BUG == kProxyFence) fence_async();
      named_barrier(1, 128);
    }
    if (in_registers(BUG)) {
      for (int k = 0; k < 16; k++) {
        const int row = 16 * warp + k % 2 * 8 + t % 32 / 4, piece = k / 2 ^ row % 8;
        left_of[k / 4][k % 4] = *reinterpret_cast<unsigned*>(tile + 128 * row + 16 * piece + 4 * (t % 4));
      }
      __syncwarp();
    }
    if (BUG != kNoFence) wgmma_fence();
    if (BUG == kOperandAfterFence && i > 0) left_of[2][1] ^= 1;
    if (BUG == kTouchedAfterFence && i > 0) d[3] *= 0.5f;
    if (BUG == kHalfAWarp && t % 32 > 15) break;
    if (BUG == kThreeWarps && warp == 3) {
      if (t % 32 == 0) mbarrier_arrive(&empty[s]);
      continue;
    }
    for (int k = 0; k < 4; k++) {
      const int step = BUG == kWrongStep ? 16 : 32, stride = BUG == kWrongStride ? 512 : 1024;
      unsigned long long of_a = matrix_descriptor(tile + k * (TA ? 2048 : step), 8192, stride);
      unsigned long long of_b = matrix_descriptor(tile + left + k * (TB ? 2048 : step), BUG == kWrongLeading ? 4096 : 8192, 1024);
      if (BUG == kNoSwizzle) of_b ^= 1ull << 62;
      if constexpr (in_registers(BUG))
        wgmma_bf16<TB>(d, left_of[k], of_b, i + k > 0);  // <- kOperandAfterFence
      else
        // <- kNoWait, kWrongParity, kNoExpect, kNoFence, kTouchedAfterFence, kNoSwizzle, kNoProxyFence
        // <- kHalfAWarp, kThreeWarps, kTooFewBytes
        wgmma_bf16<TA, TB>(d, of_a, of_b, i + k > 0);
    }
    if (BUG != kNoCommit) wgmma_commit();
    if (BUG == kTouchedInFlight) d[5] = 0;  // <- kTouchedInFlight
    if (BUG == kOperandOverwritten) left_of[3][2] = 0;  // <- kOperandOverwritten
    if (BUG == kReleasedEarly && t % 32 == 0) mbarrier_arrive(&empty[s]);
    if (BUG == kPipelined || BUG == kPipelinedEarly) {
      wgmma_wait<1>();
      const int done = BUG == kPipelined ? i - 1 : i;
      if (done >= 0 && t % 32 == 0) mbarrier_arrive(&empty[done % kStages]);
      continue;
    }
    if (BUG != kNoWgmmaWait && (BUG != kNoLastWait || i + 1 < steps)) wgmma_wait<0>();
    if (BUG == kReleasedByOneWarp ? t == 0 : BUG == kReleasesTwice ? t % 32 < 2 : BUG != kReleasedEarly && t % 32 == 0)
      mbarrier_arrive(&empty[s]);
  }
  if (BUG == kPipelined || BUG == kPipelinedEarly) wgmma_wait<0>();
  const int row = 16 * warp + t % 32 / 4, column = 2 * (t % 4);
  for (int j = 0; j < N / 8; j++) {
    for (int h = 0; h < 2; h++) {
      float* to = out + (row + 8 * h) * N + 8 * j + column;
      to[0] = d[4 * j + 2 * h];  // <- kNoLastWait
      to[1] = d[4 * j + 2 * h + 1];
    }
  }
}

#define PRODUCT(name, TA, TB, N, BUG)                                                                              \
  KERNEL(name, 160, 1, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* out, int steps) { \
    product<TA, TB, N, BUG>(a, b, out, steps);                                                                     \
  }

#define LAYOUTS(N)                                   \
  PRODUCT(product_nn_##N, false, false, N, kNone)    \
  PRODUCT(product_nt_##N, false, true, N, kNone)     \
  PRODUCT(product_tn_##N, true, false, N, kNone)     \
  PRODUCT(product_tt_##N, true, true, N, kNone)

LAYOUTS(64)
LAYOUTS(128)
LAYOUTS(192)
LAYOUTS(256)

#define BUG(name) PRODUCT(product_##name, false, false, 64, name)

BUG(kWrongParity)
BUG(kProducersWrongParity)
BUG(kTooFewBytes)
BUG(kTooManyBytes)
BUG(kNoExpect)
BUG(kNoInit)
BUG(kNoInitFence)
BUG(kNoBarrierAfterInit)
BUG(kTwoInits)
BUG(kNoWait)
BUG(kArrivesTwice)
BUG(kReleasesTwice)
BUG(kReleasedEarly)
BUG(kReleasedByOneWarp)
BUG(kNoFence)
BUG(kTouchedAfterFence)
BUG(kTouchedInFlight)
BUG(kNoCommit)
BUG(kNoWgmmaWait)
BUG(kNoLastWait)
BUG(kPipelined)
BUG(kPipelinedEarly)
BUG(kWrongStride)
BUG(kWrongStep)
BUG(kNoSwizzle)
BUG(kMisalignedTile)
BUG(kTileOutside)
BUG(kMisalignedMbarrier)
BUG(kMbarrierInGlobal)
BUG(kProxyFence)
BUG(kNoProxyFence)
BUG(kHalfAWarp)
BUG(kThreeWarps)
BUG(kLastCopyUnused)
BUG(kRegisters)
BUG(kOperandOverwritten)
BUG(kOperandAfterFence)
PRODUCT(product_registers_t_128, false, true, 128, kRegisters)
PRODUCT(product_kWrongLeading, true, true, 128, kWrongLeading)

// out [box_rows, 64] receives a box, read from the tile in the layout that ptx/tma.cuh describes; the same tile is then
// filled with the box 64 columns further on.
template <bool bad>
DEVICE void boxes(const TensorMap& a, float* out, int row, int column, int box_rows) {
  SMEM_DYN(unsigned short, tile);
  SMEM(mbarrier, full, [1]);
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(full, 1);
    mbarrier_fence();
  }
  __syncthreads();
  for (int turn = 0; turn < 2; turn++) {
    if (t == 0) {
      tma_load(tile, a, full, column + 64 * turn, row);  // <- boxes
      mbarrier_arrive_expect(full, 128 * box_rows);
    }
    mbarrier_wait(full, turn);  // <- boxes
    for (int i = t; i < 64 * box_rows; i += 32) {
      const int r = i / 64, c = i % 64, piece = c / 8 ^ r % 8;
      // <- boxes
      out[(box_rows * turn + r) * 64 + c] = __uint_as_float((unsigned)tile[64 * r + 8 * piece + c % 8] << 16);
    }
    if (!bad) __syncthreads();
  }
}

KERNEL(boxes_good, 32, 1, const __grid_constant__ TensorMap a, float* out, int row, int column, int box_rows) {
  boxes<false>(a, out, row, column, box_rows);
}
KERNEL(boxes_bad, 32, 1, const __grid_constant__ TensorMap a, float* out, int row, int column, int box_rows) {
  boxes<true>(a, out, row, column, box_rows);
}

// Copies one box of one of many matrices to the same position in another.
KERNEL(many, 32, 1, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, int row, int column, int head,
       int batch, int box_rows) {
  SMEM_DYN(unsigned char, tile);
  SMEM(mbarrier, full, [1]);
  if (threadIdx.x > 0) return;
  mbarrier_init(full, 1);
  mbarrier_fence();
  mbarrier_arrive_expect(full, 128 * box_rows);
  tma_load(tile, a, full, column, row, head, batch);
  mbarrier_wait(full, 0);
  tma_store(b, tile, column, row, head, batch);
  tma_store_commit();
  tma_store_wait<0>();
}

// An mbarrier without copies: one warp hands its values to the other, which releases the buffer.
template <bool bad>
DEVICE void handshake(float* out, int turns) {
  SMEM(float, values, [32]);
  SMEM(mbarrier, full, [1]);
  SMEM(mbarrier, empty, [1]);
  const int t = threadIdx.x;
  if (t == 0) {
    mbarrier_init(full, bad ? 31 : 32);
    mbarrier_init(empty, 32);
  }
  __syncthreads();
  for (int i = 0; i < turns; i++) {
    if (t < 32) {
      mbarrier_wait(empty, ~i & 1);
      values[t] = (float)(t + i);  // <- handshake
      mbarrier_arrive(full);
    } else {
      mbarrier_wait(full, i & 1);
      out[32 * i + t - 32] = values[63 - t];  // <- handshake
      mbarrier_arrive(empty);
    }
  }
}

KERNEL(handshake_good, 64, 1, float* out, int turns) { handshake<false>(out, turns); }
KERNEL(handshake_bad, 64, 1, float* out, int turns) { handshake<true>(out, turns); }
