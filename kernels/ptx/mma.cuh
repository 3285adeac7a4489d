// The product of two tiles by a warp's tensor core (PTX ISA, mma.sync.m16n8k16, bf16 in, f32 out; sm_80 and later).
//
// d [16, 8] += a [16, 16] b [16, 8]. With g = lane / 4 and c = 2 (lane % 4), each register of a and b holds a pair of
// neighbours, the first in the low half:
//
//   a[0] = a(g, c .. c + 1)   a[1] = a(g + 8, c ..)   a[2] = a(g, c + 8 ..)   a[3] = a(g + 8, c + 8 ..)
//   b0 = b(c .. c + 1, g)     b1 = b(c + 8 .., g)
//   d[0], d[1] = d(g, c), d(g, c + 1)                 d[2], d[3] = d(g + 8, c), d(g + 8, c + 1)
//
// Consequently:
//   - ldmatrix_x4 of a row-major tile of a yields a[0 .. 3] if the lanes supply the addresses of rows 0-7 and 8-15
//     (from column 0) and then of rows 0-7 and 8-15 (from column 8);
//   - ldmatrix of a column-major tile of b yields b0 and b1;
//   - two neighbouring elements of d, rounded and packed, are a register of an a operand.
// The whole warp must take part. Sums are in f32; their order and rounding are the hardware's own.
#pragma once

#include "../common/kernel.cuh"

#ifdef __CUDACC__

DEVICE void mma_bf16(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#else

namespace emu {

DEVICE float half_of(uint64_t word, int high) { return bits<float>((uint32_t)(word >> (16 * high)) << 16); }

// Not instrumented: the operands are registers.
__attribute__((no_sanitize("thread"))) inline void mma_bf16(const char* file, int line, float (&d)[4],
                                                           const unsigned (&a)[4], unsigned b0, unsigned b1) {
  uint64_t all[3][32];
  const uint64_t mine[3] = {a[0] | (uint64_t)a[1] << 32, a[2] | (uint64_t)a[3] << 32, b0 | (uint64_t)b1 << 32};
  emu_exchange_words(file, line, 0xffffffffu, "mma", mine, 3, &all[0][0]);
  const int g = lane() / 4, c = lane() % 4 * 2;
  for (int i = 0; i < 4; i++) {
    const int row = i / 2, column = c + i % 2;
    double sum = d[i];
    for (int k = 0; k < 16; k++) {
      const uint64_t left = all[k / 8][4 * g + k % 8 / 2] >> (32 * row);
      const uint64_t right = all[2][4 * column + k % 8 / 2] >> (32 * (k / 8));
      sum += (double)half_of(left, k % 2) * half_of(right, k % 2);
    }
    d[i] = (float)sum;
  }
}

}  // namespace emu

#define mma_bf16(d, a, b0, b1) emu::mma_bf16(__FILE__, __LINE__, d, a, b0, b1)

#endif
