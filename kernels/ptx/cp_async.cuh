// Asynchronous copies from global to shared memory (PTX ISA, cp.async; sm_80 and later).
//
// The copies that a thread has issued since its last commit form a group. `cp_async_wait<N>` returns when all but the
// thread's N latest groups have arrived. Other threads see the bytes only after a barrier that follows the wait. Both
// addresses must be multiples of the size.
#pragma once

#include "../common/kernel.cuh"
#include "address.cuh"

#ifdef __CUDACC__

// Copies 16 bytes, bypassing L1. If `valid` is false it writes zeros and does not read.
DEVICE void cp_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}

// Copies the first `bytes` (0 to 16) of 16 bytes and fills the rest with zeros. It prefetches whole lines of 128 bytes
// into L2 only, since a later copy may need them.
DEVICE void cp_async_16_part(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}

// Copies 4 bytes; writes zeros if `valid` is false.
DEVICE void cp_async_4(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
}

DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int GROUPS_IN_FLIGHT>
DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_IN_FLIGHT) : "memory");
}

#else

// Macros, so that reports name the line in the kernel.
#define cp_async_16(shared, global, valid) emu_cp_async(__FILE__, __LINE__, shared, global, 16, (valid) ? 16 : 0)
#define cp_async_16_part(shared, global, bytes) emu_cp_async(__FILE__, __LINE__, shared, global, 16, bytes)
#define cp_async_4(shared, global, valid) emu_cp_async(__FILE__, __LINE__, shared, global, 4, (valid) ? 4 : 0)
#define cp_async_commit() emu_cp_async_commit(__FILE__, __LINE__)
namespace emu {
struct Here {
  const char* file;
  int line;
  template <int GROUPS_IN_FLIGHT>
  void wait() const {
    emu_cp_async_wait(file, line, GROUPS_IN_FLIGHT);
  }
};
}  // namespace emu
#define cp_async_wait emu::Here{__FILE__, __LINE__}.wait

#endif
