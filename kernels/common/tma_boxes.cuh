// The epilogue of a warpgroup's sums, in the layout of wgmma (ptx/wgmma.cuh), with outputs stored by TMA. Outputs in
// bf16 are stored in boxes of 64 rows x 64 columns, asynchronously to the warpgroup. Outputs in f32 are stored in boxes
// of 64 x 32; TMA can also add them to what is there, so that no thread waits for a read.
//
// A box in shared memory has "swizzle 128B" (ptx/tma.cuh), so that the eight rows that stmatrix writes at a time are in
// different banks. Epilogue operands are read in pairs, 4 bytes per lane: four lanes read 16 bytes of a row, and the
// other 16 bytes of that sector then come from L1. Half a box at a time is in registers.
#pragma once

#include "../ptx/barrier.cuh"
#include "../ptx/proxy.cuh"
#include "../ptx/stmatrix.cuh"
#include "../ptx/tma.cuh"
#include "epilogue.cuh"
#include "tma_float_boxes.cuh"

constexpr int kSlotBytes = 64 * 128;  // Bytes of a box.
constexpr int kSlots = 2;             // Boxes of a warpgroup.

// The boxes in which a warpgroup stages its outputs.
struct StoreBuffers {
  unsigned char* slots;  // In shared memory, at a multiple of 1024 bytes.
  int next;              // The slot of the next output.
  bool saves;            // The epilogue saves epilogue.pre or epilogue.value, through the other slot.
  int barrier;           // The warpgroup's named barrier.
};

template <class Out>
DEVICE StoreBuffers store_buffers_of(unsigned char* slots, const Epilogue<bf16, Out>& epilogue, int barrier) {
  return {slots, 0,
          epilogue.kind == kActivate ? epilogue.pre != nullptr : epilogue.kind == kActivateGrad && epilogue.value,
          barrier};
}

// Waits until the stores from the slots that are used next have read them. Called by the whole warpgroup.
DEVICE void acquire_buffers(const StoreBuffers& buffers) {
  if (threadIdx.x % 128 == 0) {
    if (buffers.saves) {
      tma_store_wait_read<0>();
    } else {
      tma_store_wait_read<kSlots - 1>();
    }
  }
  named_barrier(buffers.barrier, 128);
}

// Starts to store the box whose first element is (row, column), and the saved one if there is one. Called by the whole
// warpgroup.
DEVICE void store_box(StoreBuffers& buffers, const TensorMap& out, const TensorMap& saved, int row, int column) {
  fence_async();
  named_barrier(buffers.barrier, 128);
  if (threadIdx.x % 128 == 0) {
    if (buffers.saves) tma_store(saved, buffers.slots + (1 - buffers.next) * kSlotBytes, column, row);
    tma_store(out, buffers.slots + buffers.next * kSlotBytes, column, row);
    tma_store_commit();
  }
  buffers.next = 1 - buffers.next;
}

// Stages the 32 columns from 32 `half` on of a box.
DEVICE void stage_half(unsigned char* slot, const float (&z)[4][4], int half) {
  const int lane = threadIdx.x % 32, line = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int c = 0; c < 4; c += 2) {
    const unsigned four[4] = {pack_bf16(z[c][0], z[c][1]), pack_bf16(z[c][2], z[c][3]),
                              pack_bf16(z[c + 1][0], z[c + 1][1]), pack_bf16(z[c + 1][2], z[c + 1][3])};
    stmatrix_x4(slot + line * 128 + ((4 * half + c + lane / 16) ^ line % 8) * 16, four);
  }
}

// Loads two neighbours, of which `left` are inside the row; the others are zeros.
DEVICE unsigned load_pair(const bf16* x, int left) {
  if (left >= 2) return *reinterpret_cast<const unsigned*>(x);
  return left == 1 ? x->bits : 0u;
}

// Loads pairs of rows i and i + 8 and columns j, j + 8, j + 16, j + 24.
DEVICE void load_pairs(unsigned (&pairs)[4][2], const bf16* x, int pitch, int i, int j, int m, int n) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const bf16* row = x + row_start(i + 8 * h, pitch) + j;
#pragma unroll
    for (int c = 0; c < 4; c++) pairs[c][h] = load_pair(row + 8 * c, i + 8 * h < m ? n - j - 8 * c : 0);
  }
}

DEVICE void add_pairs(float (&z)[4][4], const unsigned (&pairs)[4][2]) {
#pragma unroll
  for (int c = 0; c < 4; c++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      z[c][2 * h] += low_half(pairs[c][h]);
      z[c][2 * h + 1] += high_half(pairs[c][h]);
    }
  }
}

// The epilogue of half of the box whose first element is (row, column): z[c][2 h + e] is the sum of row 16 w + 8 h + g
// and column 32 half + 8 c + 2 (lane % 4) + e. All operands that the epilogue reads, and their rows, must be aligned to
// 4 bytes.
DEVICE void write_half_box(const StoreBuffers& buffers, const Epilogue<bf16, bf16>& epilogue, float (&z)[4][4], int row,
                           int column, int half, int m, int n) {
  const int lane = threadIdx.x % 32;
  const int i = row + threadIdx.x % 128 / 32 * 16 + lane / 4, j = column + 32 * half + lane % 4 * 2;
  unsigned char* saved = buffers.slots + (1 - buffers.next) * kSlotBytes;
  // All loads are issued before the first result is used.
  unsigned pre[4][2], residual[4][2], old[4][2];
  if (epilogue.kind == kActivateGrad) load_pairs(pre, epilogue.pre, epilogue.pre_pitch, i, j, m, n);
  if (epilogue.residual) load_pairs(residual, epilogue.residual, epilogue.residual_pitch, i, j, m, n);
  if (epilogue.accumulate) load_pairs(old, epilogue.out, epilogue.out_pitch, i, j, m, n);
  if (epilogue.bias) {
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const unsigned pair = load_pair(epilogue.bias + j + 8 * c, n - j - 8 * c);
#pragma unroll
      for (int e = 0; e < 4; e++) z[c][e] += e % 2 ? high_half(pair) : low_half(pair);
    }
  }
  if (epilogue.kind == kActivate) {
    if (buffers.saves) stage_half(saved, z, half);
    // The slope is not used.
    float slope[4] = {};
#pragma unroll
    for (int c = 0; c < 4; c++) activate_all<true>(epilogue.activation, z[c], slope);
  } else if (epilogue.kind == kActivateGrad) {
    float x[4][4];
#pragma unroll
    for (int c = 0; c < 4; c++) {
#pragma unroll
      for (int e = 0; e < 4; e++) x[c][e] = e % 2 ? high_half(pre[c][e / 2]) : low_half(pre[c][e / 2]);
      activate_all<true>(epilogue.activation, x[c], z[c]);
    }
    if (buffers.saves) stage_half(saved, x, half);
  }
  if (epilogue.residual) add_pairs(z, residual);
  if (epilogue.accumulate) add_pairs(z, old);
  stage_half(buffers.slots + buffers.next * kSlotBytes, z, half);
}

// ---- Outputs in f32 -----------------------------------------------------------------------------------------------

// Stores the box whose first element is (row, column), of sums in the layout of `write_half_box`, or adds it to what is
// there. There are no other epilogue operands. Called by the whole warpgroup.
DEVICE void write_float_box(StoreBuffers& buffers, const TensorMap& out, bool add, const float (&z)[4][4], int row,
                            int column) {
  acquire_buffers(buffers);
  unsigned char* slot = buffers.slots + buffers.next * kSlotBytes;
  stage_floats(slot, z);
  fence_async();
  named_barrier(buffers.barrier, 128);
  if (threadIdx.x % 128 == 0) {
    if (add) {
      tma_add(out, slot, column, row);
    } else {
      tma_store(out, slot, column, row);
    }
    tma_store_commit();
  }
  buffers.next = 1 - buffers.next;
}
