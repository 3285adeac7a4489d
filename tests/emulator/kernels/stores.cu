// Stores and additions by TMA, and stmatrix: correct ones, and the same with one defect each.
//
// The line that must be reported, or one of several, ends in a comment with an arrow and the names of defects, or
// follows such comments.
#include "common/kernel.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/proxy.cuh"
#include "ptx/stmatrix.cuh"
#include "ptx/tma.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_stores() { return 1; }

enum Misuse {
  kGood,
  kGoodReadBack,
  kNoFence,
  kFenceByIssuer,
  kFenceTooEarly,
  kNoBarrier,
  kNoCommit,
  kNoWait,
  kWeakWait,
  kLateWait,
  kWaitByAnother,
  kNoLastWait,
  kReadBackEarly,
  kWrongSwizzle,
  kMisalignedTile,
  kTileOutside,
  kTileInGlobal,
  kUnwrittenRow,
  kOverlap,
  kSameBox,
  kOverWritten,
  kTooManyStorers,
  kAdds,          // correct, in a matrix that was written
  kAddsReadBack,  // correct, by one block for each box
  kAddUnfenced,
  kAddRefilled,
  kAddUncommitted,
  kAddReadEarly,
  kAddBesideWrite,
  kAddBesideStore,
  kAddAfterStore,
  kAddShort,
  kMisalignedRow,
  kRowInGlobal,
  kNoSyncwarp,
  kHalfAWarp,
};

// The expected value of element (row, column).
DEVICE unsigned short element(int row, int column) { return (unsigned short)(331 * row + 7 * column + 1); }

// A block stores 64 columns of out [rows, columns], `steps` boxes one below the other, alternating between two tiles.
template <Misuse BUG>
DEVICE void store(const TensorMap& map, unsigned short* out, int steps, int box_rows) {
  SMEM_DYN(unsigned char, tiles);
  const int t = threadIdx.x, column = BUG == kSameBox ? 0 : 64 * blockIdx.x;
  if (BUG == kMisalignedTile) tiles += 128;
  if (BUG == kOverWritten && t == 0) out[column] = 0;
  for (int i = 0; i < steps; i++) {
    unsigned char* tile = tiles + i % 2 * 128 * box_rows;
    const int row = BUG == kOverlap ? 0 : box_rows * i;
    if (BUG != kNoWait && BUG != kLateWait && t == (BUG == kWaitByAnother))
      tma_store_wait_read<BUG == kWeakWait ? 2 : 1>();
    if (BUG == kFenceTooEarly) fence_async();
    __syncthreads();
    if (BUG == kLateWait && t == 0) tma_store_wait_read<1>();
    for (int e = t; e < 64 * box_rows; e += 64) {
      const int r = e / 64, c = e % 64, piece = BUG == kWrongSwizzle ? c / 8 : c / 8 ^ r % 8;
      if (BUG == kUnwrittenRow && r == 1) continue;
      // <- kNoBarrier, kNoCommit, kNoWait, kWeakWait, kLateWait, kWaitByAnother
      reinterpret_cast<unsigned short*>(tile)[64 * r + 8 * piece + c % 8] = element(row + r, column + c);
    }
    if (BUG != kNoFence && BUG != kFenceByIssuer && BUG != kFenceTooEarly) fence_async();
    if (BUG != kNoBarrier) __syncthreads();
    if (BUG == kFenceByIssuer && t == 0) fence_async();
    if (t == 0 || BUG == kTooManyStorers) {
      const void* from = tile + (BUG == kTileOutside) * 256 * box_rows;
      if (BUG == kTileInGlobal) from = out;
      // <- kNoFence, kFenceByIssuer, kFenceTooEarly, kNoBarrier, kNoLastWait, kMisalignedTile, kTileOutside
      // <- kTileInGlobal, kUnwrittenRow, kOverlap, kSameBox, kOverWritten, kTooManyStorers
      tma_store(map, from, column, BUG == kTooManyStorers ? -box_rows : row);
      if (BUG != kNoCommit) tma_store_commit();
    }
  }
  if (t > 0 || BUG == kNoLastWait) return;
  if (BUG == kGoodReadBack)
    tma_store_wait<0>();
  else
    tma_store_wait_read<0>();
  if (BUG == kGoodReadBack || BUG == kReadBackEarly) {
    const volatile unsigned short* first = out + column;
    if (*first != element(0, column)) __trap();  // <- kReadBackEarly
  }
}

#define STORE(name)                                                                                              \
  KERNEL(store_##name, 64, 1, const __grid_constant__ TensorMap map, unsigned short* out, int steps, int rows) { \
    store<name>(map, out, steps, rows);                                                                          \
  }

STORE(kGood)
STORE(kGoodReadBack)
STORE(kNoFence)
STORE(kFenceByIssuer)
STORE(kFenceTooEarly)
STORE(kNoBarrier)
STORE(kNoCommit)
STORE(kNoWait)
STORE(kWeakWait)
STORE(kLateWait)
STORE(kWaitByAnother)
STORE(kNoLastWait)
STORE(kReadBackEarly)
STORE(kWrongSwizzle)
STORE(kMisalignedTile)
STORE(kTileOutside)
STORE(kTileInGlobal)
STORE(kUnwrittenRow)
STORE(kOverlap)
STORE(kSameBox)
STORE(kOverWritten)
STORE(kTooManyStorers)

// The value that is added to element (row, column): small integers, whose sums are exact in any order.
DEVICE float addend(int row, int column) { return (float)(row % 7 + 3 * (column % 5) + 1); }

// Blocks add to 32 columns of out [rows, columns], those with the same blockIdx.x to the same columns: twice `steps`
// boxes one below the other, alternating between two tiles.
template <Misuse BUG>
DEVICE void add(const TensorMap& map, float* out, int steps, int box_rows) {
  SMEM_DYN(unsigned char, tiles);
  const int t = threadIdx.x, column = 32 * blockIdx.x;
  if (BUG == kAddBesideWrite && blockIdx.y == 1) {
    if (t == 0) out[column] = 1.0f;  // <- kAddBesideWrite
    return;
  }
  for (int i = 0; i < 2 * steps; i++) {
    unsigned char* tile = tiles + i % 2 * 128 * box_rows;
    const int row = box_rows * (i % steps);
    if (BUG != kAddRefilled && t == 0) tma_store_wait_read<1>();
    __syncthreads();
    for (int e = t; e < 32 * box_rows; e += 64) {
      const int r = e / 32, c = e % 32, piece = c / 4 ^ r % 8;
      // <- kAddRefilled, kAddUncommitted
      reinterpret_cast<float*>(tile)[32 * r + 4 * piece + c % 4] = addend(row + r, column + c);
    }
    if (BUG != kAddUnfenced) fence_async();
    __syncthreads();
    if (t == 0) {
      if (BUG == kAddBesideStore ? blockIdx.y == 1 : BUG == kAddAfterStore && i < steps)
        tma_store(map, tile, column, row);  // <- kAddBesideStore, kAddAfterStore
      else
        // <- kAddUnfenced, kAddBesideWrite, kAddBesideStore, kAddAfterStore, kAddShort, kAddUnwritten
        tma_add(map, tile, column, row);
      if (BUG != kAddUncommitted) tma_store_commit();
    }
  }
  if (t > 0) return;
  if (BUG == kAddsReadBack)
    tma_store_wait<0>();
  else
    tma_store_wait_read<0>();
  if (BUG == kAddsReadBack || BUG == kAddReadEarly) {
    const volatile float* first = out + column;
    if (*first < 2 * addend(0, column)) __trap();  // <- kAddReadEarly
  }
}

#define ADD(name)                                                                                      \
  KERNEL(add_##name, 64, 1, const __grid_constant__ TensorMap map, float* out, int steps, int rows) { \
    add<name>(map, out, steps, rows);                                                                  \
  }

ADD(kAdds)
ADD(kAddsReadBack)
ADD(kAddUnfenced)
ADD(kAddRefilled)
ADD(kAddUncommitted)
ADD(kAddReadEarly)
ADD(kAddBesideWrite)
ADD(kAddBesideStore)
ADD(kAddAfterStore)
ADD(kAddShort)

// Stores one box of 64 rows from registers in the layout of wgmma: warp w has rows 16 w to 16 w + 15.
KERNEL(store_registers, 128, 1, const __grid_constant__ TensorMap map) {
  SMEM_DYN(unsigned char, tile);
  const int t = threadIdx.x, lane = t % 32, first = t / 32 * 16, row = 64 * blockIdx.y, column = 64 * blockIdx.x;
  for (int j = 0; j < 4; j++) {
    unsigned r[4];
    for (int m = 0; m < 4; m++) {
      const int i = row + first + m % 2 * 8 + lane / 4, k = column + 16 * j + m / 2 * 8 + lane % 4 * 2;
      r[m] = element(i, k) | (unsigned)element(i, k + 1) << 16;
    }
    const int to = first + lane % 16, piece = 2 * j + lane / 16;
    stmatrix_x4(tile + 128 * to + 16 * (piece ^ to % 8), r);
  }
  fence_async();
  __syncthreads();
  if (t > 0) return;
  tma_store(map, tile, column, row);
  tma_store_commit();
  tma_store_wait_read<0>();
}

// out [4, 8, 8]: four tiles, in which element number n is n; then whether ldmatrix returns what each lane had.
template <Misuse BUG>
DEVICE void matrices(unsigned* out) {
  SMEM(unsigned short, rows, [32 * 24]);
  const int t = threadIdx.x;
  unsigned r[4], back[4];
  for (int m = 0; m < 4; m++) {
    const unsigned n = 64 * m + 8 * (t / 4) + 2 * (t % 4);
    r[m] = n | (n + 1) << 16;
  }
  void* row = &rows[24 * t + (BUG == kMisalignedRow ? 4 : 0)];
  if (BUG == kRowInGlobal) row = out;
  if (BUG == kHalfAWarp && t > 15) return;
  stmatrix_x4(row, r);  // <- kMisalignedRow, kRowInGlobal, kHalfAWarp, kNoSyncwarp
  if (BUG != kNoSyncwarp) __syncwarp();
  for (int i = t; i < 256; i += 32) out[i] = rows[24 * (i / 8) + i % 8];  // <- kNoSyncwarp
  ldmatrix_x4(back, &rows[24 * t]);
  for (int m = 0; m < 4; m++) out[256 + 32 * m + t] = back[m] == r[m];
}

#define MATRICES(name) \
  KERNEL(matrices_##name, 32, 1, unsigned* out) { matrices<name>(out); }

MATRICES(kGood)
MATRICES(kMisalignedRow)
MATRICES(kRowInGlobal)
MATRICES(kNoSyncwarp)
MATRICES(kHalfAWarp)
