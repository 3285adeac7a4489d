// Barriers in shared memory that also count the bytes of asynchronous copies (PTX ISA, mbarrier; sm_90).
//
// A barrier goes through phases. A phase completes when `count` threads have arrived and all announced bytes have been
// copied; the next phase then begins with the same count. `mbarrier_wait(barrier, parity)` returns once the phase of
// that parity (0 for the first phase, 1 for the second, 0 for the third ...) has completed, so a wait for parity 1 on a
// fresh barrier returns at once. What a thread did before it arrived, and what the announced copies wrote, is visible
// after the wait. Threads of other blocks of the cluster (cluster.cuh) may arrive too.
#pragma once

#include "../common/kernel.cuh"
#include "address.cuh"

// 8 bytes of shared memory, aligned to 8 bytes.
using mbarrier = unsigned long long;

#ifdef __CUDACC__

// Initialises a barrier. Called by one thread before any thread uses the barrier; see `mbarrier_fence`.
DEVICE void mbarrier_init(mbarrier* barrier, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}

// Makes initialised barriers visible to asynchronous copies. Other threads see them after a block barrier that follows.
DEVICE void mbarrier_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

DEVICE void mbarrier_arrive(mbarrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives at the barrier at the same shared memory offset in block `rank` of the cluster, which may be this block.
DEVICE void mbarrier_arrive_at(mbarrier* barrier, unsigned rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [there];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

// Arrives, and announces copies of `bytes` bytes to the current phase.
DEVICE void mbarrier_arrive_expect(mbarrier* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

DEVICE void mbarrier_wait(mbarrier* barrier, unsigned parity) {
  const unsigned address = shared_address(barrier);
  unsigned done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.b32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(address), "r"(parity)
        : "memory");
  } while (!done);
}

#else

#define mbarrier_init(barrier, count) emu_mbarrier_init(__FILE__, __LINE__, barrier, count)
#define mbarrier_fence() emu_mbarrier_fence(__FILE__, __LINE__)
#define mbarrier_arrive(barrier) emu_mbarrier_arrive(__FILE__, __LINE__, barrier, 0)
#define mbarrier_arrive_at(barrier, rank) emu_mbarrier_arrive(__FILE__, __LINE__, barrier, 0, rank)
#define mbarrier_arrive_expect(barrier, bytes) emu_mbarrier_arrive(__FILE__, __LINE__, barrier, bytes)
#define mbarrier_wait(barrier, parity) emu_mbarrier_wait(__FILE__, __LINE__, barrier, parity)

#endif
