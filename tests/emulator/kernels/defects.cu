// Kernels with one defect each, and their correct versions: what the emulator must report, and what it must not report.
//
// DEFECT(name, threads) { ... } defines two kernels, name_bad and name_good, with the same body, which depends on
// `bad`. The line that must be reported ends in a comment with an arrow; a second arrow marks the other line that may
// be reported instead. All kernels take (float* data, float* out, int n): n elements of input and n of output.
#include "common/kernel.cuh"
#include "ptx/barrier.cuh"
#include "ptx/cp_async.cuh"
#include "common/element.cuh"
#include "ptx/ldmatrix.cuh"
#include "ptx/mma.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_defects() { return 1; }

#define DEFECT(name, threads)                                            \
  template <bool bad>                                                    \
  static void name(float* data, float* out, int n);                      \
  KERNEL(name##_bad, threads, 1, float* data, float* out, int n) { name<true>(data, out, n); }   \
  KERNEL(name##_good, threads, 1, float* data, float* out, int n) { name<false>(data, out, n); } \
  template <bool bad>                                                    \
  static void name([[maybe_unused]] float* data, [[maybe_unused]] float* out, [[maybe_unused]] int n)

// ---- Barriers ---------------------------------------------------------------------------------------------------------

DEFECT(no_barrier, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  tile[t] = data[t];          // <- no_barrier
  if (!bad) __syncthreads();
  out[t] = tile[63 - t];      // <- no_barrier
}

// The buffer is filled again while other threads still read it.
DEFECT(no_barrier_before_reuse, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < 3; i++) {
    tile[t] = data[t] + i;    // <- no_barrier_before_reuse
    __syncthreads();
    sum += tile[63 - t];      // <- no_barrier_before_reuse
    if (!bad) __syncthreads();
  }
  out[t] = sum;
}

DEFECT(no_syncwarp, 32) {
  SMEM(float, tile, [32]);
  int t = threadIdx.x;
  tile[t] = data[t];          // <- no_syncwarp
  if (!bad) __syncwarp();
  out[t] = tile[31 - t];      // <- no_syncwarp
}

// A shuffle synchronises lanes, but orders no memory accesses.
DEFECT(shuffle_orders_nothing, 32) {
  SMEM(float, tile, [32]);
  int t = threadIdx.x;
  tile[t] = data[t];          // <- shuffle_orders_nothing
  float other = __shfl_xor_sync(0xffffffffu, data[t], 1);
  if (!bad) __syncwarp();
  out[t] = tile[31 - t] + other;  // <- shuffle_orders_nothing
}

// A warp barrier where a block barrier is needed.
DEFECT(syncwarp_for_a_block, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  tile[t] = data[t];          // <- syncwarp_for_a_block
  if (bad)
    __syncwarp();
  else
    __syncthreads();
  out[t] = tile[63 - t];      // <- syncwarp_for_a_block
}

DEFECT(divergent_barrier, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  tile[t] = data[t];
  if (bad && t < 32)
    __syncthreads();          // <- divergent_barrier
  else
    __syncthreads();          // <- divergent_barrier
  out[t] = tile[63 - t];
}

DEFECT(barrier_for_some, 64) {
  int t = threadIdx.x;
  if (!bad || t % 2 == 0) __syncthreads();  // <- barrier_for_some
  out[t] = data[t];
}

DEFECT(early_return, 64) {
  int t = threadIdx.x;
  if (bad && t > 40) return;
  __syncthreads();            // <- early_return
  out[t] = data[t];
}

DEFECT(two_counts_of_one_barrier, 96) {
  int t = threadIdx.x;
  named_barrier(1, bad && t >= 32 ? 64 : 96);  // <- two_counts_of_one_barrier
  out[t] = data[t];
}

DEFECT(barrier_waits_for_too_many, 96) {
  int t = threadIdx.x;
  if (t < 64) named_barrier(2, bad ? 96 : 64);  // <- barrier_waits_for_too_many
  out[t] = data[t];
}

DEFECT(barrier_for_half_a_warp, 64) {
  int t = threadIdx.x;
  if (!bad || t < 48) named_barrier(3, bad ? 48 : 64);  // <- barrier_for_half_a_warp
  out[t] = data[t];
}

DEFECT(barrier_sixteen, 64) {
  named_barrier(bad ? 16 : 15, 64);  // <- barrier_sixteen
  out[threadIdx.x] = data[threadIdx.x];
}

// Two warps synchronise; the third one reads what they wrote.
DEFECT(barrier_without_the_reader, 96) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  if (t < 64) tile[t] = data[t];  // <- barrier_without_the_reader
  if (bad) {
    if (t < 64) named_barrier(1, 64);
  } else {
    named_barrier(1, 96);
  }
  out[t] = t < 64 ? data[t] : tile[t - 64];  // <- barrier_without_the_reader
}

// ---- Bounds, alignment, initialisation --------------------------------------------------------------------------------

DEFECT(read_behind_the_end, 64) {
  int t = threadIdx.x;
  out[t] = data[t + (bad ? n - 60 : 0)];  // <- read_behind_the_end
}

DEFECT(write_behind_the_end, 64) {
  int t = threadIdx.x;
  float x = data[t];
  out[t + (bad ? n - 63 : 0)] = x;  // <- write_behind_the_end
}

DEFECT(read_before_the_start, 64) {
  int t = threadIdx.x;
  out[t] = data[t - (bad ? 1 : 0)];  // <- read_before_the_start
}

DEFECT(shared_array_too_short, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  tile[t] = data[t];
  __syncthreads();
  out[t] = tile[t + (bad ? 1 : 0)];  // <- shared_array_too_short
}

DEFECT(dynamic_shared_too_small, 64) {
  SMEM_DYN(float, tile);
  int t = threadIdx.x;
  tile[t * (bad ? 2 : 1)] = data[t];  // <- dynamic_shared_too_small
  __syncthreads();
  out[t] = tile[t];
}

DEFECT(local_array_too_short, 64) {
  int t = threadIdx.x;
  volatile float own[8];
  for (int i = 0; i < 8; i++) own[i] = data[i];
  out[t] = own[t % 8 + (bad ? 1 : 0)];  // <- local_array_too_short
}

DEFECT(shared_never_written, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  if (!bad || t != 17) tile[t] = data[t];
  __syncthreads();
  out[t] = tile[63 - t];      // <- shared_never_written
}

DEFECT(global_never_written, 64) {
  int t = threadIdx.x;
  if (!bad) out[t] = 1;
  out[t] += data[t];          // <- global_never_written
}

DEFECT(misaligned_vector, 32) {
  int t = threadIdx.x;
  float4 v = *reinterpret_cast<float4*>(data + 4 * (t % 4) + (bad ? 1 : 0));  // <- misaligned_vector
  out[t] = v.x + v.y + v.z + v.w;
}

DEFECT(too_much_shared_memory, 32) {
  SMEM(float, small, [32]);
  SMEM(float, large, [12 * 1024 - (bad ? 0 : 32)]);
  int t = threadIdx.x;
  small[t] = large[t] = data[t];
  out[t] = small[t] + large[t];
}

DEFECT(shift_by_32, 32) {
  int t = threadIdx.x;
  unsigned bit = 1u << (t + (bad ? 1 : 0));  // <- shift_by_32
  out[t] = bit;
}

DEFECT(division_by_zero, 32) {
  int t = threadIdx.x;
  out[t] = 100 / (t + (bad ? 0 : 1));  // <- division_by_zero
}

// ---- Warps ------------------------------------------------------------------------------------------------------------

DEFECT(shuffle_in_a_branch, 32) {
  int t = threadIdx.x;
  float x = data[t];
  if (!bad || t < 16) x += __shfl_xor_sync(0xffffffffu, x, 1);  // <- shuffle_in_a_branch
  out[t] = x;
}

DEFECT(mask_without_oneself, 32) {
  int t = threadIdx.x;
  out[t] = __shfl_xor_sync(bad ? 0xffff0000u : 0xffffffffu, data[t], 1);  // <- mask_without_oneself
}

DEFECT(shuffle_from_an_idle_lane, 32) {
  int t = threadIdx.x;
  float x = 0;
  if (t < 16) x = __shfl_sync(0x0000ffffu, data[t], bad ? 16 : 15);  // <- shuffle_from_an_idle_lane
  out[t] = x;
}

DEFECT(two_masks_that_overlap, 32) {
  int t = threadIdx.x;
  unsigned mask = bad && t < 16 ? 0x0000ffffu : 0xffffffffu;
  out[t] = __shfl_xor_sync(mask, data[t], 1);  // <- two_masks_that_overlap
}

DEFECT(mask_beyond_the_block, 48) {
  int t = threadIdx.x;
  unsigned mask = bad || t < 32 ? 0xffffffffu : 0x0000ffffu;
  out[t] = __shfl_xor_sync(mask, data[t], 1);  // <- mask_beyond_the_block
}

// ---- Asynchronous copies ----------------------------------------------------------------------------------------------

DEFECT(copy_without_wait, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  cp_async_4(&tile[t], data + t, true);  // <- copy_without_wait
  cp_async_commit();
  if (!bad) cp_async_wait<0>();
  __syncthreads();
  out[t] = tile[63 - t];      // <- copy_without_wait
}

DEFECT(copy_one_group_short, 64) {
  SMEM(float, tile, [2][64]);
  int t = threadIdx.x;
  cp_async_4(&tile[0][t], data + t, true);
  cp_async_commit();
  cp_async_4(&tile[1][t], data + t, true);  // <- copy_one_group_short
  cp_async_commit();
  if (bad)
    cp_async_wait<1>();
  else
    cp_async_wait<0>();
  __syncthreads();
  out[t] = tile[0][63 - t] + tile[1][63 - t];  // <- copy_one_group_short
}

DEFECT(copy_without_barrier, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  cp_async_4(&tile[t], data + t, true);  // <- copy_without_barrier
  cp_async_commit();
  cp_async_wait<0>();
  if (!bad) __syncthreads();
  out[t] = tile[63 - t];      // <- copy_without_barrier
}

DEFECT(copy_without_commit, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  cp_async_4(&tile[t], data + t, true);  // <- copy_without_commit
  if (!bad) cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  out[t] = tile[63 - t];      // <- copy_without_commit
}

DEFECT(copy_over_what_is_read, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  float sum = 0;
  for (int i = 0; i < 3; i++) {
    cp_async_4(&tile[t], data + t, true);  // <- copy_over_what_is_read
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    sum += tile[63 - t];      // <- copy_over_what_is_read
    if (!bad) __syncthreads();
  }
  out[t] = sum;
}

DEFECT(copy_misaligned, 4) {
  SMEM(float4, tile, [4]);
  int t = threadIdx.x;
  cp_async_16(&tile[t], data + 4 * t + (bad ? 2 : 0), true);  // <- copy_misaligned
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = tile[t].x;
}

DEFECT(copy_misaligned_and_unread, 4) {
  SMEM(float4, tile, [4]);
  int t = threadIdx.x;
  cp_async_16(&tile[t], data + 4 * t + (bad ? 2 : 0), false);  // <- copy_misaligned_and_unread
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = tile[t].x;
}

DEFECT(copy_behind_the_end, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  int from = t + (bad ? n - 32 : 0);
  cp_async_4(&tile[t], data + from, true);  // <- copy_behind_the_end
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = tile[t];
}

DEFECT(copy_to_global, 64) {
  SMEM(float, tile, [64]);
  int t = threadIdx.x;
  cp_async_4(bad ? out + t : &tile[t], data + t, true);  // <- copy_to_global
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = data[t];
}

// ---- Global memory between threads and blocks -------------------------------------------------------------------------

DEFECT(threads_write_one_word, 64) {
  int t = threadIdx.x;
  out[bad ? 0 : t] = data[t];  // <- threads_write_one_word
}

DEFECT(blocks_write_one_word, 32) {
  int t = threadIdx.x;
  out[t + (bad ? 0 : 32 * blockIdx.x)] = data[t];  // <- blocks_write_one_word
}

DEFECT(counting_without_atomics, 64) {
  unsigned* count = reinterpret_cast<unsigned*>(out);
  if (bad)
    *count += 1;              // <- counting_without_atomics
  else
    atomicAdd(count, 1u);
}

// The last block to finish adds up what all blocks have written: correct only with a fence before the atomic.
DEFECT(last_block_without_fence, 32) {
  SMEM(unsigned, ticket, [1]);
  int t = threadIdx.x;
  unsigned* count = reinterpret_cast<unsigned*>(out + n - 1);
  if (t == 0) {
    out[1 + blockIdx.x] = data[blockIdx.x];  // <- last_block_without_fence
    if (!bad) __threadfence();
    ticket[0] = atomicAdd(count, 1u);
  }
  __syncthreads();
  if (ticket[0] == gridDim.x - 1 && t == 1) {
    float sum = 0;
    for (unsigned b = 0; b < gridDim.x; b++) sum += out[1 + b];  // <- last_block_without_fence
    out[0] = sum;
  }
}

DEFECT(input_is_written, 64) {
  int t = threadIdx.x;
  out[t] = data[t];
  if (bad) data[t] = 0;       // <- input_is_written
}

// Shared memory belongs to a block: atomics on it order nothing between blocks.
DEFECT(shared_atomics_between_blocks, 32) {
  SMEM(unsigned, flag, [1]);
  int t = threadIdx.x;
  if (t == 0) {
    flag[0] = 0;
    out[bad ? 0 : blockIdx.x] = data[t];  // <- shared_atomics_between_blocks
    __threadfence();
    atomicAdd(&flag[0], 1u);
  }
}

// The last thread to count reads the word without an atomic, and nothing orders the read after the atomics of the
// others.
DEFECT(plain_read_of_an_atomic, 64) {
  unsigned* count = reinterpret_cast<unsigned*>(out);
  unsigned old = atomicAdd(count, 1u);  // <- plain_read_of_an_atomic
  if (!bad) __syncthreads();
  if (bad ? old == 63 : threadIdx.x == 0) out[1] = *count;  // <- plain_read_of_an_atomic
}

// Three warps read; the writer has synchronised with only one of the others.
DEFECT(a_third_reader, 96) {
  SMEM(float, word, [1]);
  int t = threadIdx.x, warp = t / 32;
  if (t == 0) word[0] = data[0];
  __syncthreads();
  out[t] = word[0];           // <- a_third_reader
  if (bad) {
    if (warp != 1) named_barrier(1, 64);
  } else {
    __syncthreads();
  }
  if (t == 0) word[0] = 1;    // <- a_third_reader
}

// The two halves of a word are different memory locations.
DEFECT(halves_of_a_word, 64) {
  SMEM(unsigned short, halves, [2]);
  int t = threadIdx.x;
  if (t < 2) halves[t] = t;
  __syncthreads();
  unsigned sum = 0;
  if (t == 0) sum += halves[0];
  __syncthreads();
  if (t == 0) sum += halves[1];  // <- halves_of_a_word
  if (t == 63) halves[bad ? 1 : 0] = 7;  // <- halves_of_a_word
  out[t] = sum;
}

DEFECT(copy_from_shared, 32) {
  SMEM(float, tile, [2][32]);
  int t = threadIdx.x;
  tile[0][t] = data[t];
  cp_async_4(&tile[1][t], bad ? &tile[0][t] : data + t, true);  // <- copy_from_shared
  cp_async_commit();
  cp_async_wait<0>();
  out[t] = tile[1][t];
}

// ---- Tensor cores -----------------------------------------------------------------------------------------------------
//
// A tile is [16][16] bf16; rows of 16 bytes at tile[row][8 half].

DEVICE void fill_tile(bf16 (&tile)[16][16], const float* data) {
  for (int i = threadIdx.x; i < 256; i += blockDim.x) tile[i / 16][i % 16] = to<bf16>(data[i % 128]);
}

DEVICE const bf16* row_of(const bf16 (&tile)[16][16]) { return &tile[threadIdx.x % 16][threadIdx.x % 32 / 16 * 8]; }

DEFECT(ldmatrix_without_barrier, 64) {
  SMEM(bf16, tile, [16][16]);
  unsigned a[4];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    tile[i / 16][i % 16] = to<bf16>(data[i % 128]);  // <- ldmatrix_without_barrier
  }
  if (!bad) __syncthreads();
  ldmatrix_x4(a, row_of(tile));  // <- ldmatrix_without_barrier
  out[threadIdx.x] = low_half(a[0]) + high_half(a[3]);
}

// That a lane has written rows itself does not help: what it reads was written by other lanes.
DEFECT(ldmatrix_without_syncwarp, 32) {
  SMEM(bf16, tile, [16][16]);
  unsigned a[4];
  for (int i = threadIdx.x; i < 256; i += blockDim.x) {
    tile[i / 16][i % 16] = to<bf16>(data[i % 128]);  // <- ldmatrix_without_syncwarp
  }
  if (!bad) __syncwarp();
  ldmatrix_x4_trans(a, row_of(tile));  // <- ldmatrix_without_syncwarp
  out[threadIdx.x] = low_half(a[1]) + high_half(a[2]);
}

DEFECT(ldmatrix_of_what_is_replaced, 64) {
  SMEM(bf16, tile, [16][16]);
  float sum = 0;
  for (int i = 0; i < 2; i++) {
    unsigned a[4];
    for (int e = threadIdx.x; e < 256; e += blockDim.x) {
      tile[e / 16][e % 16] = to<bf16>(data[e % 128] + i);  // <- ldmatrix_of_what_is_replaced
    }
    __syncthreads();
    ldmatrix_x4(a, row_of(tile));  // <- ldmatrix_of_what_is_replaced
    sum += low_half(a[0]);
    if (!bad) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

DEFECT(ldmatrix_misaligned, 32) {
  SMEM(bf16, tile, [16][16]);
  unsigned a[4];
  fill_tile(tile, data);
  __syncthreads();
  ldmatrix_x4(a, &tile[threadIdx.x % 16][bad ? 4 : 8]);  // <- ldmatrix_misaligned
  out[threadIdx.x] = low_half(a[0]);
}

DEFECT(ldmatrix_behind_the_end, 32) {
  SMEM(bf16, tile, [16][16]);
  unsigned a[4];
  fill_tile(tile, data);
  __syncthreads();
  ldmatrix_x4_trans(a, &tile[0][0] + (threadIdx.x % 16 + (bad ? 1 : 0)) * 16);  // <- ldmatrix_behind_the_end
  out[threadIdx.x] = low_half(a[0]);
}

DEFECT(ldmatrix_from_global, 32) {
  SMEM(bf16, tile, [16][16]);
  unsigned a[4];
  fill_tile(tile, data);
  __syncthreads();
  ldmatrix_x4(a, bad ? reinterpret_cast<const bf16*>(data) : row_of(tile));  // <- ldmatrix_from_global
  out[threadIdx.x] = low_half(a[0]);
}

DEFECT(ldmatrix_by_half_a_warp, 32) {
  SMEM(bf16, tile, [16][16]);
  unsigned a[4] = {};
  fill_tile(tile, data);
  __syncthreads();
  if (!bad || threadIdx.x < 16) ldmatrix_x4(a, row_of(tile));  // <- ldmatrix_by_half_a_warp
  out[threadIdx.x] = low_half(a[0]);
}

DEFECT(mma_in_a_branch, 32) {
  float d[4] = {};
  const unsigned one = pack_bf16(data[0], 1.0f), a[4] = {one, one, one, one};
  if (!bad || threadIdx.x % 2) mma_bf16(d, a, one, one);  // <- mma_in_a_branch
  out[threadIdx.x] = d[0];
}

// Half of the warp executes one instruction, and half another.
DEFECT(two_products_at_a_time, 32) {
  float d[4] = {};
  const unsigned one = pack_bf16(data[0], 1.0f), a[4] = {one, one, one, one};
  if (bad && threadIdx.x < 16) {
    mma_bf16(d, a, one, 0);   // <- two_products_at_a_time
  } else {
    mma_bf16(d, a, one, one); // <- two_products_at_a_time
  }
  out[threadIdx.x] = d[0];
}

// ---- Endless ----------------------------------------------------------------------------------------------------------

DEFECT(endless_loop, 32) {
  volatile float* word = data;
  float last = 0;
  while (bad && word[0] == word[0]) last += 1;  // <- endless_loop
  out[threadIdx.x] = last;
}

DEFECT(flag_that_nobody_sets, 32) {
  unsigned* flag = reinterpret_cast<unsigned*>(out + n - 1);
  if (threadIdx.x == 31 && !bad) atomicExch(flag, 7u);
  if (threadIdx.x == 0) {
    while (atomicCAS(flag, 7u, 8u) != 7u) {
    }
  }
  __syncthreads();
  out[threadIdx.x] = data[threadIdx.x];
}

DEFECT(endless_meetings, 32) {
  int t = threadIdx.x;
  while (__any_sync(0xffffffffu, bad)) {
  }
  out[t] = data[t];
}

DEFECT(polling_by_adding_nothing, 32) {
  unsigned* flag = reinterpret_cast<unsigned*>(out + n - 1);
  if (threadIdx.x == 31 && !bad) atomicExch(flag, 7u);
  if (threadIdx.x == 0) {
    while (atomicAdd(flag, 0u) != 7u) {
    }
  }
  out[threadIdx.x] = data[threadIdx.x];
}

DEFECT(trap, 32) {
  if (bad && threadIdx.x == 3) __trap();  // <- trap
  out[threadIdx.x] = data[threadIdx.x];
}
