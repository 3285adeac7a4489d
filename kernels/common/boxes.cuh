// A warpgroup's sums, as wgmma leaves them (ptx/wgmma.cuh), with their epilogue into memory by the copy engine: rounded to
// bf16, in boxes of 64 rows x 64 columns, which are on their way while the warpgroup goes on; or in f32, in boxes of 64 x 32,
// which the copy engine itself adds to what is there, so that nobody waits for that.
//
// A box lies in shared memory in "swizzle 128B" (ptx/tma.cuh), so that the eight rows that stmatrix writes at a time are at
// different banks. What is read of the surroundings comes in pairs, 4 bytes a lane: four lanes have 16 bytes of a row, and the
// other 16 of that sector follow from the first-level cache. Half a box at a time is in registers.
#pragma once

#include "../ptx/barrier.cuh"
#include "../ptx/proxy.cuh"
#include "../ptx/stmatrix.cuh"
#include "../ptx/tma.cuh"
#include "epilogue.cuh"
#include "float_boxes.cuh"

constexpr int kSlot = 64 * 128;     // Bytes of a box.
constexpr int kSlots = 2;           // Boxes of a warpgroup.

// Where a warpgroup's boxes are.
struct Boxes {
  unsigned char* slots;  // Of shared memory, at a multiple of 1024 bytes.
  int next;              // The slot of the next output.
  bool both;             // The epilogue keeps what goes to the other slot: around.pre, or around.value.
  int barrier;           // The warpgroup's named barrier.
};

template <class Out>
DEVICE Boxes boxes_of(unsigned char* slots, const Epilogue<bf16, Out>& around, int barrier) {
  return {slots, 0, around.kind == kActivate ? around.pre != nullptr : around.kind == kActivateGrad && around.value,
          barrier};
}

// What was in the slots that come next has been read. All of the warpgroup.
DEVICE void open_boxes(const Boxes& boxes) {
  if (threadIdx.x % 128 == 0) {
    if (boxes.both) {
      tma_store_wait_read<0>();
    } else {
      tma_store_wait_read<kSlots - 1>();
    }
  }
  named_barrier(boxes.barrier, 128);
}

// Starts to write a box whose first element is (row, column), and the one kept beside it. All of the warpgroup.
DEVICE void send_boxes(Boxes& boxes, const TensorMap& out, const TensorMap& kept, int row, int column) {
  fence_async();
  named_barrier(boxes.barrier, 128);
  if (threadIdx.x % 128 == 0) {
    if (boxes.both) tma_store(kept, boxes.slots + (1 - boxes.next) * kSlot, column, row);
    tma_store(out, boxes.slots + boxes.next * kSlot, column, row);
    tma_store_commit();
  }
  boxes.next = 1 - boxes.next;
}

// Columns 32 `half` on of a box.
DEVICE void put_half(unsigned char* slot, const float (&z)[4][4], int half) {
  const int lane = threadIdx.x % 32, line = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (int c = 0; c < 4; c += 2) {
    const unsigned four[4] = {pack_bf16(z[c][0], z[c][1]), pack_bf16(z[c][2], z[c][3]),
                              pack_bf16(z[c + 1][0], z[c + 1][1]), pack_bf16(z[c + 1][2], z[c + 1][3])};
    stmatrix_x4(slot + line * 128 + ((4 * half + c + lane / 16) ^ line % 8) * 16, four);
  }
}

// Two neighbours, of which `left` are there; zeros for others.
DEVICE unsigned load_pair(const bf16* x, int left) {
  if (left >= 2) return *reinterpret_cast<const unsigned*>(x);
  return left == 1 ? x->bits : 0u;
}

// Pairs of rows i and i + 8 and columns j, j + 8, j + 16, j + 24.
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

// Half of the box whose first element is (row, column): z[c][2 h + e] is the sum of row 16 w + 8 h + g and column 32 half + 8 c +
// 2 (lane % 4) + e. All that `around` reads begins at multiples of 4 bytes, and so do its rows.
DEVICE void write_half(const Boxes& boxes, const Epilogue<bf16, bf16>& around, float (&z)[4][4], int row, int column,
                       int half, int m, int n) {
  const int lane = threadIdx.x % 32;
  const int i = row + threadIdx.x % 128 / 32 * 16 + lane / 4, j = column + 32 * half + lane % 4 * 2;
  unsigned char* kept = boxes.slots + (1 - boxes.next) * kSlot;
  // All that is read is on its way before the first is used.
  unsigned pre[4][2], more[4][2], was[4][2];
  if (around.kind == kActivateGrad) load_pairs(pre, around.pre, around.pre_pitch, i, j, m, n);
  if (around.residual) load_pairs(more, around.residual, around.residual_pitch, i, j, m, n);
  if (around.accumulate) load_pairs(was, around.out, around.out_pitch, i, j, m, n);
  if (around.bias) {
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const unsigned pair = load_pair(around.bias + j + 8 * c, n - j - 8 * c);
#pragma unroll
      for (int e = 0; e < 4; e++) z[c][e] += e % 2 ? high_half(pair) : low_half(pair);
    }
  }
  if (around.kind == kActivate) {
    if (boxes.both) put_half(kept, z, half);
    // The slope is wanted by nobody.
    float slope[4] = {};
#pragma unroll
    for (int c = 0; c < 4; c++) activate_all<true>(around.activation, z[c], slope);
  } else if (around.kind == kActivateGrad) {
    float x[4][4];
#pragma unroll
    for (int c = 0; c < 4; c++) {
#pragma unroll
      for (int e = 0; e < 4; e++) x[c][e] = e % 2 ? high_half(pre[c][e / 2]) : low_half(pre[c][e / 2]);
      activate_all<true>(around.activation, x[c], z[c]);
    }
    if (boxes.both) put_half(kept, x, half);
  }
  if (around.residual) add_pairs(z, more);
  if (around.accumulate) add_pairs(z, was);
  put_half(boxes.slots + boxes.next * kSlot, z, half);
}

// ---- In f32 -------------------------------------------------------------------------------------------------------

// The box whose first element is (row, column), of sums as `write_half` has them: written, or added to what is there. Nothing else
// surrounds it. All of the warpgroup.
DEVICE void write_floats(Boxes& boxes, const TensorMap& out, bool add, const float (&z)[4][4], int row, int column) {
  open_boxes(boxes);
  unsigned char* slot = boxes.slots + boxes.next * kSlot;
  put_floats(slot, z);
  fence_async();
  named_barrier(boxes.barrier, 128);
  if (threadIdx.x % 128 == 0) {
    if (add) {
      tma_add(out, slot, column, row);
    } else {
      tma_store(out, slot, column, row);
    }
    tma_store_commit();
  }
  boxes.next = 1 - boxes.next;
}
