// Matrix products of tiles by the tensor cores of a warpgroup (PTX ISA, wgmma.mma_async, bf16 in, f32 out; sm_90a).
//
// d [64, N] = a [64, 16] b [16, N] (+ d, if `add`). A warpgroup is four consecutive warps; the number of the first is a
// multiple of four. Warp w of the four holds rows 16 w to 16 w + 15: with g = lane % 32 / 4 and c = 2 (lane % 4),
//
//   d[4 j + 2 h + e] = d(16 w + 8 h + g, 8 j + c + e),   h, e = 0, 1,  j = 0 .. N / 8 - 1
//
// a and b are read from tiles in shared memory that `tma_load` has loaded, through descriptors. In a K-major tile, K
// runs along the 128 bytes of a row (the rows are rows of a, or columns of b). Groups of eight rows are `stride` (1024)
// bytes apart, and the next 16 steps of K begin 32 bytes further on. In a transposed tile (TA, TB) a row is one step of
// K and holds 64 elements of the other axis. Groups of eight steps are `stride` (1024) bytes apart, the next 64
// elements of the other axis `leading` bytes, and the next 16 steps of K 2048 bytes.
//
// Alternatively a is in registers, in the layout of mma (mma.cuh): a[2 i + h] holds the elements of row 16 w + 8 h + g
// at steps 8 i + c and 8 i + c + 1, the first in the low half. So columns 16 s to 16 s + 15 of one product, packed in
// pairs, are step s of the next product. These registers must not be written until that product is complete.
//
// wgmma runs asynchronously to the warps. `wgmma_fence` must come before the first product, and again after registers
// of d or a have been accessed in any other way. The products between two `wgmma_commit` form a group, and
// `wgmma_wait<N>` returns when all but the latest N groups are complete. Until then d must not be accessed and the
// tiles must not be overwritten. All threads of a warp must execute each of these together. `wgmma_hold` on registers,
// before a fence or after a wait, keeps the compiler from moving accesses to them across it. `wgmma_begin` on the
// registers of d, before the fence of a product that does not add, marks their old values as dead: the assembler does
// not know that such a product does not read d, and would otherwise keep the registers alive from one loop iteration to
// the next.
#pragma once

#include "../common/kernel.cuh"
#include "address.cuh"

// A "swizzle 128B" descriptor of a tile at a shared memory address.
DEVICE unsigned long long pack_descriptor(unsigned start, int leading, int stride) {
  const auto field = [](unsigned bytes) { return static_cast<unsigned long long>((bytes & 0x3ffff) >> 4); };
  return field(start) | field(leading) << 16 | field(stride) << 32 | 1ull << 62;
}

#ifdef __CUDACC__

// The descriptor of a tile. `shared` points to the first of the 16 steps of K.
DEVICE unsigned long long matrix_descriptor(const void* shared, int leading, int stride) {
  return pack_descriptor(shared_address(shared), leading, stride);
}

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int GROUPS_IN_FLIGHT>
DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS_IN_FLIGHT) : "memory");
}

template <int N>
DEVICE void wgmma_begin(float (&registers)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) registers[i] = 0.0f;
}

template <int N>
DEVICE void wgmma_hold(float (&registers)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++) asm volatile("" : "+f"(registers[i])::"memory");
}
template <int N>
DEVICE void wgmma_hold(unsigned (&registers)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; i++) {
#pragma unroll
    for (int j = 0; j < 4; j++) asm volatile("" : "+r"(registers[i][j])::"memory");
  }
}

// The registers of an asm statement as PTX names them, and as lists of the variables bound to them.
#define WGMMA_NAMES_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_64 WGMMA_NAMES_32 ", " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_96 WGMMA_NAMES_64 ", " \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_NAMES_128 WGMMA_NAMES_96 ", " \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define WGMMA_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define WGMMA_16(d, i) WGMMA_4(d, i), WGMMA_4(d, i + 4), WGMMA_4(d, i + 8), WGMMA_4(d, i + 12)
#define WGMMA_32(d) WGMMA_16(d, 0), WGMMA_16(d, 16)
#define WGMMA_64(d) WGMMA_32(d), WGMMA_16(d, 32), WGMMA_16(d, 48)
#define WGMMA_96(d) WGMMA_64(d), WGMMA_16(d, 64), WGMMA_16(d, 80)
#define WGMMA_128(d) WGMMA_96(d), WGMMA_16(d, 96), WGMMA_16(d, 112)

// Products with `columns` columns of b, whose d takes `registers` registers; the remaining arguments are the operand
// numbers that follow.
#define WGMMA_SHARED(columns, registers, left, right, sum, left_across, right_across)                              \
  template <bool TA, bool TB>                                                                                      \
  DEVICE void wgmma_bf16(float (&d)[registers], unsigned long long a, unsigned long long b, int add) {             \
    asm volatile(                                                                                                  \
        "{\n"                                                                                                      \
        ".reg .pred p;\n"                                                                                          \
        "setp.ne.b32 p, %" #sum ", 0;\n"                                                                           \
        "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" WGMMA_NAMES_##registers "}, %" #left     \
        ", %" #right ", p, 1, 1, %" #left_across ", %" #right_across ";\n"                                         \
        "}"                                                                                                        \
        : WGMMA_##registers(d)                                                                                     \
        : "l"(a), "l"(b), "r"(add), "n"(int(TA)), "n"(int(TB)));                                                   \
  }
#define WGMMA_REGISTERS(columns, registers, a0, a1, a2, a3, right, sum, right_across)                              \
  template <bool TB>                                                                                               \
  DEVICE void wgmma_bf16(float (&d)[registers], const unsigned (&a)[4], unsigned long long b, int add) {           \
    asm volatile(                                                                                                  \
        "{\n"                                                                                                      \
        ".reg .pred p;\n"                                                                                          \
        "setp.ne.b32 p, %" #sum ", 0;\n"                                                                           \
        "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32.bf16.bf16 {" WGMMA_NAMES_##registers "}, {%" #a0      \
        ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #right ", p, 1, 1, %" #right_across ";\n"                             \
        "}"                                                                                                        \
        : WGMMA_##registers(d)                                                                                     \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(int(TB)));                             \
  }

WGMMA_SHARED(64, 32, 32, 33, 34, 35, 36)
WGMMA_SHARED(128, 64, 64, 65, 66, 67, 68)
WGMMA_SHARED(192, 96, 96, 97, 98, 99, 100)
WGMMA_SHARED(256, 128, 128, 129, 130, 131, 132)

WGMMA_REGISTERS(64, 32, 32, 33, 34, 35, 36, 37, 38)
WGMMA_REGISTERS(128, 64, 64, 65, 66, 67, 68, 69, 70)

#undef WGMMA_SHARED
#undef WGMMA_REGISTERS
#undef WGMMA_4
#undef WGMMA_16
#undef WGMMA_32
#undef WGMMA_64
#undef WGMMA_96
#undef WGMMA_128
#undef WGMMA_NAMES_32
#undef WGMMA_NAMES_64
#undef WGMMA_NAMES_96
#undef WGMMA_NAMES_128

#else

namespace emu {

struct Wgmma {
  const char* file;
  int line;

  // Inlined, so that hooks.c sees the kernel's line as the call site.
  template <bool TA, bool TB, int REGISTERS>
  __attribute__((always_inline)) void bf16(float (&d)[REGISTERS], uint64_t a, uint64_t b, int add) const {
    static_assert(REGISTERS == 32 || REGISTERS == 64 || REGISTERS == 96 || REGISTERS == 128);
    constexpr unsigned columns = 2 * REGISTERS;
    emu_wgmma(file, line, &d[0], columns << 3 | TB << 2 | TA << 1 | (add != 0), a, b);
  }

  template <bool TB, int REGISTERS>
  __attribute__((always_inline)) void bf16(float (&d)[REGISTERS], const unsigned (&a)[4], uint64_t b, int add) const {
    static_assert(REGISTERS == 32 || REGISTERS == 64);
    constexpr unsigned columns = 2 * REGISTERS, in_registers = 1u << 12;
    const uint64_t mine = reinterpret_cast<uint64_t>(&a[0]);
    emu_wgmma(file, line, &d[0], in_registers | columns << 3 | TB << 2 | (add != 0), mine, b);
  }

  template <int GROUPS_IN_FLIGHT>
  void wait() const {
    emu_wgmma_wait(file, line, GROUPS_IN_FLIGHT);
  }
};

inline uint64_t matrix_descriptor(const char* file, int line, const void* shared, int leading, int stride) {
  return pack_descriptor(emu_shared_address(file, line, shared), leading, stride);
}

}  // namespace emu

template <class T>
DEVICE void wgmma_begin(const T&) {}
template <class T>
DEVICE void wgmma_hold(const T&) {}

#define matrix_descriptor(shared, leading, stride) emu::matrix_descriptor(__FILE__, __LINE__, shared, leading, stride)
#define wgmma_bf16 emu::Wgmma{__FILE__, __LINE__}.bf16
#define wgmma_fence() emu_wgmma_fence(__FILE__, __LINE__)
#define wgmma_commit() emu_wgmma_commit(__FILE__, __LINE__)
#define wgmma_wait emu::Wgmma{__FILE__, __LINE__}.wait

#endif
