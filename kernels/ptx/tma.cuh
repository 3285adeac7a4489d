// TMA copies of boxes between a matrix in global memory and a tile in shared memory (PTX ISA, cp.async.bulk.tensor,
// cp.reduce.async.bulk.tensor; sm_90).
//
// A `TensorMap` (src/device/cuda/launch/mod.rs) describes the matrix: the address and pitch of its rows (multiples of
// 16 bytes), the number of rows and columns, and the box. Rows of a box always have 128 bytes here: 64 elements of
// bf16, or 32 of f32. Elements outside the matrix arrive as zeros and are not written. The matrix may be one of many,
// such as those of the heads of a batch; a box then also has a head and a batch index, and stays within that matrix.
//
// A tile in shared memory is aligned to 1024 bytes. Each row of the box takes 128 bytes, and rows follow one another.
// Of the eight 16-byte chunks of row r, chunk c is stored at position c ^ (r % 8) ("swizzle 128B"), which lets wgmma
// and ldmatrix read columns of chunks without bank conflicts.
//
// The stores that a thread has started since its last commit form a group. `tma_store_wait_read<N>` returns when all
// but the thread's N latest groups have read their tiles, which may then be overwritten; `tma_store_wait<N>` returns
// when they have also written the matrix, and this thread can see it. Only the thread that started and committed the
// stores can wait for them. All tiles must have been read before the block exits. To store a tile, each thread that
// writes to it runs `fence_async` (proxy.cuh), then all of them pass a barrier, then one thread starts the store.
//
// `tma_add` is a store that adds a tile of f32 to the matrix. Each element is added atomically, so any number of these
// may be in flight to the same box, in an unspecified order.
#pragma once

#include "../common/kernel.cuh"
#include "mbarrier.cuh"

#ifdef __CUDACC__

// The format that cuTensorMapEncodeTiled writes.
struct __align__(64) TensorMap {
  unsigned long long opaque[16];
};

// Prefetches the descriptor.
DEVICE void tma_prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Starts to load the box whose first element is (row, column). Called by one thread. `barrier` counts all bytes of the
// box, including those outside the matrix.
DEVICE void tma_load(void* shared, const TensorMap& map, mbarrier* barrier, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
          shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}

// As `tma_load`, but multicasts the box to every block of the cluster whose bit is set in `blocks`: to the shared
// memory offset of `shared` in each of them, counted by the barrier at the offset of `barrier`.
DEVICE void tma_load_all(void* shared, const TensorMap& map, mbarrier* barrier, int column, int row, unsigned blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row), "h"(static_cast<unsigned short>(blocks))
      : "memory");
}

// As `tma_load`, for one of many matrices.
DEVICE void tma_load(void* shared, const TensorMap& map, mbarrier* barrier, int column, int row, int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(head), "r"(row), "r"(batch)
      : "memory");
}

// Starts to store the tile to the box whose first element is (row, column). Called by one thread.
DEVICE void tma_store(const TensorMap& map, const void* shared, int column, int row) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(column), "r"(row)
               : "memory");
}

// As `tma_store`, for one of many matrices.
DEVICE void tma_store(const TensorMap& map, const void* shared, int column, int row, int head, int batch) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(column), "r"(head), "r"(row), "r"(batch)
               : "memory");
}

// As `tma_store`, but adds the f32 tile to the box.
DEVICE void tma_add(const TensorMap& map, const void* shared, int column, int row) {
  asm volatile("cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(column), "r"(row)
               : "memory");
}

// As `tma_add`, for one of many matrices.
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

// The layout of src/device/cuda/launch/mod.rs.
struct __align__(64) TensorMap {
  unsigned long long address, rows, columns, pitch, box_rows, heads, head_pitch, batches, batch_pitch, element,
      unused[6];
};

DEVICE void tma_prefetch(const TensorMap&) {}

// The variable arguments are the position of the box: column and row, or column, row, head and batch.
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
