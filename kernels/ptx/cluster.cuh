// Clusters: blocks that run at one time on neighbouring multiprocessors, and reach each other's shared memory (PTX ISA,
// barrier.cluster, mapa; sm_90).
//
// They arrive at each other's mbarriers (`mbarrier_arrive_at`), and one of them brings what all want to read (`tma_load_all`).
// Shared memory is there from the first meeting of all on, and is gone when its block ends: nobody may be late for the last.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

// The number of this block in its cluster.
DEVICE unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks of the cluster meet, from one line. What they did before is visible to all of them after.
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
