// Thread block clusters: blocks that are scheduled at the same time on neighbouring SMs and can access each other's
// shared memory (PTX ISA, barrier.cluster, mapa; sm_90).
//
// Blocks of a cluster arrive at each other's mbarriers (`mbarrier_arrive_at`), and one of them can load data for all of
// them (`tma_load_all`). A block's shared memory may be accessed by the others from the first `cluster_barrier` on, and
// is gone once the block exits: a last `cluster_barrier` must come after all such accesses.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

// The rank of this block in its cluster.
DEVICE unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Synchronises all threads of all blocks of the cluster; all of them must call it from the same source line. Writes
// before the barrier are visible to all of them after it.
DEVICE void cluster_barrier() {
  asm volatile(
      "barrier.cluster.arrive.release;\n"
      "barrier.cluster.wait.acquire;" ::
          : "memory");
}

#else

#define cluster_rank() emu_cluster_rank()
#define cluster_barrier() emu_cluster_barrier(__FILE__, __LINE__)

#endif
