// Loads tiles of 8 x 8 elements of 2 bytes from shared memory into registers (PTX ISA, ldmatrix; sm_75 and later).
//
// Lanes 8 m to 8 m + 7 supply the addresses of the eight rows of tile m. A row is 16 bytes, and its address a multiple
// of 16. Afterwards register m of lane l holds the elements in row l / 4, columns 2 (l % 4) and 2 (l % 4) + 1 of tile
// m, the first in the low half: the layout that mma takes. With `trans` the tile is transposed: the register holds rows
// 2 (l % 4) and 2 (l % 4) + 1 of column l / 4. The whole warp must take part, and a barrier must have made the rows
// visible to all lanes.
#pragma once

#include "../common/kernel.cuh"
#include "address.cuh"

#ifdef __CUDACC__

DEVICE void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

DEVICE void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

#else

namespace emu {

// Each lane reads the elements that it receives, so that a row which is not visible to it is reported as a race of that
// lane. The reads are volatile because the hardware also reads what nobody uses.
template <bool TRANS>
DEVICE void ldmatrix(const char* file, int line, unsigned (&r)[4], const void* row) {
  aligned_shared(file, line, row, 16);
  uint64_t all[32];
  emu_exchange(file, line, 0xffffffffu, TRANS ? "ldmatrix.trans" : "ldmatrix", reinterpret_cast<uint64_t>(row), all);
  const int high = lane() / 4, low = lane() % 4 * 2;
  for (int tile = 0; tile < 4; tile++) {
    if (TRANS) {
      const unsigned first = reinterpret_cast<const volatile unsigned short*>(all[8 * tile + low])[high];
      const unsigned second = reinterpret_cast<const volatile unsigned short*>(all[8 * tile + low + 1])[high];
      r[tile] = first | second << 16;
    } else {
      r[tile] = reinterpret_cast<const volatile unsigned*>(all[8 * tile + high])[low / 2];
    }
  }
}

}  // namespace emu

#define ldmatrix_x4(r, row) emu::ldmatrix<false>(__FILE__, __LINE__, r, row)
#define ldmatrix_x4_trans(r, row) emu::ldmatrix<true>(__FILE__, __LINE__, r, row)

#endif
