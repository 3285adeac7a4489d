// Tiles of 8 x 8 elements of 2 bytes from registers into shared memory (PTX ISA, stmatrix; sm_90): ldmatrix backwards.
//
// Lanes 8 m to 8 m + 7 give the addresses of the eight rows of tile m, each 16 bytes and a multiple of 16. Lane l has
// in register m the elements (row l / 4, columns 2 (l % 4) and the next) of tile m, the first in the low half: where
// wgmma leaves its results. The whole warp takes part. Other lanes see the rows after a barrier, `__syncwarp` at least.
#pragma once

#include "../common/kernel.cuh"
#include "address.cuh"

#ifdef __CUDACC__

DEVICE void stmatrix_x4(void* row, const unsigned (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

#else

namespace emu {

// Each lane writes what it holds, so that all have to fence it and to meet whoever reads it; volatile, for the hooks to
// see each write as it is.
DEVICE void stmatrix(const char* file, int line, void* row, const unsigned (&r)[4]) {
  aligned_shared(file, line, row, 16);
  uint64_t all[32];
  emu_exchange(file, line, 0xffffffffu, "stmatrix", reinterpret_cast<uint64_t>(row), all);
  for (int tile = 0; tile < 4; tile++)
    reinterpret_cast<volatile unsigned*>(all[8 * tile + lane() / 4])[lane() % 4] = r[tile];
}

}  // namespace emu

#define stmatrix_x4(row, r) emu::stmatrix(__FILE__, __LINE__, row, r)

#endif
