// Clusters of two blocks: a tile of which each block loads one half for both, and the same with one defect each.
//
// Both blocks read all of every tile [64, 64] of a [64 steps, 64], and a stage may only be filled again when both have
// read it. out [blocks, 64] receives the column sums of a, times 1 in a cluster's first block, times 2 in its second.
// The lines one of which must be reported are marked as in hopper.cu.
#include "common/element.cuh"
#include "ptx/cluster.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_clusters() { return 1; }

enum Bug {
  kNone,
  kNoMeeting,
  kBlocksMeetAlone,
  kNoLastMeeting,
  kReleasedHereOnly,
  kReleasedThereOnly,
  kHalfIsExpected,
  kNotForAll,
  kNoSuchBlock,
  kNoSuchBarrier,
  kReadsTooEarly,
  kTwoMeetings,
};

constexpr int kStages = 2;
constexpr int kTile = 64 * 128;

template <Bug BUG>
DEVICE void column_sums(const TensorMap& a, float* out, int steps) {
  SMEM_DYN(unsigned char, tiles);
  SMEM(mbarrier, full, [kStages]);
  SMEM(mbarrier, empty, [kStages]);
  const int t = threadIdx.x;
  const unsigned rank = cluster_rank();
  if (t == 0) {
    for (int s = 0; s < kStages; s++) {
      mbarrier_init(full + s, 1);
      mbarrier_init(empty + s, BUG == kReleasedHereOnly || BUG == kReleasedThereOnly ? 2 : 4);
    }
    mbarrier_fence();
  }
  if (BUG == kBlocksMeetAlone) {
    __syncthreads();
  } else if (BUG == kTwoMeetings && rank == 1) {
    cluster_barrier();  // <- kTwoMeetings
  } else if (BUG != kNoMeeting) {
    cluster_barrier();  // <- kTwoMeetings
  }
  if (t == 64) {
    for (int i = 0; i < steps; i++) {
      const int s = i % kStages, turn = i / kStages;
      // <- kNoMeeting, kBlocksMeetAlone
      mbarrier_wait(empty + s, ~turn & 1);
      // <- kReleasedThereOnly
      mbarrier_arrive_expect(full + s, BUG == kHalfIsExpected ? kTile / 2 : kTile);
      // <- kReleasedHereOnly, kReleasedThereOnly, kNotForAll, kNoSuchBlock, kHalfIsExpected, kNoMeeting
      // <- kBlocksMeetAlone, kNoLastMeeting
      tma_load_all(tiles + s * kTile + rank * (kTile / 2), a, full + s, 0, 64 * i + 32 * rank,
                   BUG == kNotForAll ? 1 << rank : BUG == kNoSuchBlock ? 7 : 3);
    }
  } else if (t < 64) {
    float sum = 0;
    for (int i = 0; i < steps; i++) {
      const int s = i % kStages, turn = i / kStages;
      // <- kNotForAll, kNoMeeting, kBlocksMeetAlone, kHalfIsExpected, kReleasedThereOnly
      if (BUG != kReadsTooEarly || i == 0) mbarrier_wait(full + s, turn & 1);
      // <- kReadsTooEarly, kHalfIsExpected
      for (int r = 0; r < 64; r++) {
        const unsigned char* row = tiles + s * kTile + 128 * r;
        sum += to_float(*reinterpret_cast<const bf16*>(row + 16 * (t / 8 ^ r % 8) + t % 8 * 2));
      }
      __syncwarp();
      if (t % 32 < 2) {
        const unsigned there = BUG == kReleasedHereOnly ? rank : BUG == kReleasedThereOnly ? 1 - rank : t % 32;
        if (there == t % 32)
          // <- kNoSuchBarrier, kNoLastMeeting
          mbarrier_arrive_at(BUG == kNoSuchBarrier ? full + kStages : empty + s, there);
      }
    }
    out[64 * blockIdx.x + t] = sum * (rank + 1);
  }
  if (BUG != kNoLastMeeting) cluster_barrier();
}

#define COLUMN_SUMS(name)                                                                                             \
  KERNEL_OF_CLUSTERS(clusters_##name, 2, 96, 1, const __grid_constant__ TensorMap a, float* out, int steps) { \
    column_sums<name>(a, out, steps);                                                                                 \
  }

COLUMN_SUMS(kNone)
COLUMN_SUMS(kNoMeeting)
COLUMN_SUMS(kBlocksMeetAlone)
COLUMN_SUMS(kNoLastMeeting)
COLUMN_SUMS(kReleasedHereOnly)
COLUMN_SUMS(kReleasedThereOnly)
COLUMN_SUMS(kHalfIsExpected)
COLUMN_SUMS(kNotForAll)
COLUMN_SUMS(kNoSuchBlock)
COLUMN_SUMS(kNoSuchBarrier)
COLUMN_SUMS(kReadsTooEarly)
COLUMN_SUMS(kTwoMeetings)

KERNEL_OF_CLUSTERS(clusters_large, 2, 1024, 1, int* out) { out[0] = 1; }
