// Stores tiles of 8 x 8 elements of 2 bytes from registers to shared memory (PTX ISA, stmatrix; sm_90): the reverse of
// ldmatrix.
//
// Lanes 8 m to 8 m + 7 supply the addresses of the eight rows of tile m. A row is 16 bytes, and its address a multiple
// of 16. Register m of lane l holds the elements in row l / 4, columns 2 (l % 4) and 2 (l % 4) + 1 of tile m, the first
// in the low half: the layout in which wgmma leaves its results. The whole warp must take part. Other lanes see the
// rows after a barrier, at least `__syncwarp`.
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

// Each lane writes the elements that it holds, so that every lane must fence its writes and synchronise with the
// readers. The writes are volatile so that the hooks see each of them.
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
