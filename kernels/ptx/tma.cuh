// Copies of boxes between a matrix in global memory and a tile in shared memory, by the copy engine (PTX ISA,
// cp.async.bulk.tensor, cp.reduce.async.bulk.tensor; sm_90).
//
// A `TensorMap` (src/device/cuda/launch.rs) describes the matrix: address and pitch of its rows (multiples of 16
// bytes), rows, columns, and the box, whose rows here always have 128 bytes: 64 elements of bf16, or 32 of f32. What lies outside
// of the matrix arrives as zeros, and is not written. It may be one of many, those of the heads of a batch: boxes are then asked for by
// head and batch too, and stay within that matrix.
//
// In shared memory (at a multiple of 1024 bytes) a row of the box is 128 bytes, and rows follow one another. Of the
// eight pieces of 16 bytes of row r, piece p lies at p ^ (r % 8): "swizzle 128B", which lets wgmma and ldmatrix read
// columns of pieces without bank conflicts.
//
// A thread's stores since its last commit form a group. `tma_store_wait_read<N>` returns when all but the thread's N
// latest groups have read their tiles, which may then be filled again; `tma_store_wait<N>` when they have also written
// the matrix, for this thread to see. Only the thread that has started and committed stores can wait for them. Tiles
// are to be read before the block ends. Threads that fill a tile run `fence_async` (proxy.cuh), then a barrier, then one
// thread starts the store.
//
// `tma_add` is a store that adds a tile of f32 to what the matrix has. Each element is added to as by an atomic, so that any
// number of them may be on their way to one box, in an order that nobody knows.
#pragma once

#include "../common/kernel.cuh"
#include "mbarrier.cuh"

#ifdef __CUDACC__

// As cuTensorMapEncodeTiled made it.
struct __align__(64) TensorMap {
  unsigned long long opaque[16];
};

// Brings the description itself nearer.
DEVICE void tma_prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// By one thread: starts to copy the box whose first element is (row, column); `barrier` counts its bytes, all of them, also
// those outside of the matrix.
DEVICE void tma_load(void* shared, const TensorMap& map, mbarrier* barrier, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}

// The same to every block of the cluster whose bit is set in `blocks`: to where the tile lies in this block, counted by the barrier
// that lies where this one does.
DEVICE void tma_load_all(void* shared, const TensorMap& map, mbarrier* barrier, int column, int row, unsigned blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row), "h"(static_cast<unsigned short>(blocks))
      : "memory");
}

// Of one of many matrices.
DEVICE void tma_load(void* shared, const TensorMap& map, mbarrier* barrier, int column, int row, int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(head), "r"(row), "r"(batch)
      : "memory");
}

// By one thread: starts to copy the tile to the box whose first element is (row, column).
DEVICE void tma_store(const TensorMap& map, const void* shared, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(column), "r"(row)
               : "memory");
}

// Of one of many matrices.
DEVICE void tma_store(const TensorMap& map, const void* shared, int column, int row, int head, int batch) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(column), "r"(head), "r"(row), "r"(batch)
               : "memory");
}

// As `tma_store`, but adds the tile, of f32, to the box.
DEVICE void tma_add(const TensorMap& map, const void* shared, int column, int row) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(column), "r"(row)
               : "memory");
}

// Of one of many matrices.
DEVICE void tma_add(const TensorMap& map, const void* shared, int column, int row, int head, int batch) {
  asm volatile(
      "cp.reduce.async.bulk.tensor.4d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
      "r"(shared_address(shared)), "r"(column), "r"(head), "r"(row), "r"(batch)
      : "memory");
}

DEVICE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

template <int GROUPS_IN_FLIGHT>
DEVICE void tma_store_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(GROUPS_IN_FLIGHT) : "memory");
}

template <int GROUPS_IN_FLIGHT>
DEVICE void tma_store_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(GROUPS_IN_FLIGHT) : "memory");
}

#else

// As src/device/cuda/launch.rs lays it out.
struct __align__(64) TensorMap {
  unsigned long long address, rows, columns, pitch, box_rows, heads, head_pitch, batches, batch_pitch, element,
      unused[6];
};

DEVICE void tma_prefetch(const TensorMap&) {}

// The place of the box: column and row, or head and batch too.
#define tma_load(shared, map, barrier, ...) emu_tma_load(__FILE__, __LINE__, shared, &(map), barrier, __VA_ARGS__)

#define tma_load_all(shared, map, barrier, column, row, blocks) \
  emu_tma_load(__FILE__, __LINE__, shared, &(map), barrier, column, row, -1, -1, blocks)

#define tma_store(map, shared, ...) emu_tma_store(__FILE__, __LINE__, 0, shared, &(map), __VA_ARGS__)
#define tma_add(map, shared, ...) emu_tma_store(__FILE__, __LINE__, 1, shared, &(map), __VA_ARGS__)
#define tma_store_commit() emu_tma_store_commit(__FILE__, __LINE__)
namespace emu {
struct Stores {
  const char* file;
  int line;

  template <int GROUPS_IN_FLIGHT>
  void wait_read() const {
    emu_tma_store_wait(file, line, GROUPS_IN_FLIGHT, 0);
  }

  template <int GROUPS_IN_FLIGHT>
  void wait() const {
    emu_tma_store_wait(file, line, GROUPS_IN_FLIGHT, 1);
  }
};
}  // namespace emu
#define tma_store_wait_read emu::Stores{__FILE__, __LINE__}.wait_read
#define tma_store_wait emu::Stores{__FILE__, __LINE__}.wait

#endif
