// The subset of CUDA that kernels use, for the host's C++ compiler. Each CUDA thread is a coroutine
// (src/device/cuda/driver/emulator/). What involves other threads goes through the emu_* functions, which are
// implemented in Rust. Loads and stores are instrumented by the compiler (-fsanitize=thread) and arrive in hooks.c.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

// Calls of these would bypass the emulator.
#pragma GCC poison memcpy memset memmove

#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) __attribute__((aligned(n)))
#define __constant__ static const
#define __grid_constant__
#define DEVICE static inline __attribute__((always_inline, unused))

// ---- Identity -------------------------------------------------------------------------------------------------------

struct dim3 {
  unsigned x, y, z;
};

extern "C" {
// Constant within a coroutine, so the compiler may reuse the result.
dim3 emu_thread_idx() __attribute__((const));
dim3 emu_block_idx() __attribute__((const));
dim3 emu_block_dim() __attribute__((const));
dim3 emu_grid_dim() __attribute__((const));

// `element`: bytes of an element; `columns`: the last dimension.
void* emu_shared_static(const char* name, unsigned bytes, unsigned align, unsigned element, unsigned columns);
void* emu_shared_dynamic();
void emu_barrier(const char* file, int line, int id, int threads);
void emu_syncwarp(const char* file, int line, unsigned mask);
void emu_fence(const char* file, int line);
// Every lane of `mask` contributes `bits`; `out` receives those of all 32.
void emu_exchange(const char* file, int line, unsigned mask, const char* what, uint64_t bits, uint64_t out[32]);
// The same with up to 4 words per lane: `out[w * 32 + l]` is word w of lane l.
void emu_exchange_words(const char* file, int line, unsigned mask, const char* what, const uint64_t* mine, int words,
                        uint64_t* out);
// Reports an instruction whose address is not in shared memory, or is not a multiple of `bytes`.
void emu_bad_address(const char* file, int line, int in_shared, int bytes);
int emu_is_shared(const void* address);
// Reports that `lane` was not among those that took part in the exchange.
void emu_bad_lane(const char* file, int line, unsigned mask, int lane);
// In hooks.c, as is emu_cp_async.
uint32_t emu_atomic(const char* file, int line, void* address, int operation, uint32_t value, uint32_t compare);
void emu_cp_async(const char* file, int line, void* shared, const void* global, int bytes, int from_global);
void emu_cp_async_commit(const char* file, int line);
void emu_cp_async_wait(const char* file, int line, int groups_in_flight);
void emu_trap(const char* file, int line);
unsigned emu_cluster_rank() __attribute__((const));
void emu_cluster_barrier(const char* file, int line);
void emu_mbarrier_fence(const char* file, int line);
// The address of a tile in shared memory, as descriptors encode it.
unsigned emu_shared_address(const char* file, int line, const void* address);
void emu_wgmma_fence(const char* file, int line);
void emu_wgmma_commit(const char* file, int line);
void emu_wgmma_wait(const char* file, int line, int groups_in_flight);
void emu_fence_async(const char* file, int line);
void emu_tma_store_commit(const char* file, int line);
// `complete`: wait until the matrix is written, not only until the tile is read.
void emu_tma_store_wait(const char* file, int line, int groups_in_flight, int complete);
// In hooks.c, like all that follow.
void emu_mbarrier_init(const char* file, int line, void* barrier, unsigned count);
// `rank`: the block whose barrier it is; negative: the thread's own block.
void emu_mbarrier_arrive(const char* file, int line, void* barrier, unsigned bytes, int rank = -1);
void emu_mbarrier_wait(const char* file, int line, void* barrier, unsigned parity);
// `blocks`: one bit for each block of the cluster that receives the box; 0: the thread's own block.
void emu_tma_load(const char* file, int line, void* shared, const void* map, void* barrier, int column, int row,
                  int head = -1, int batch = -1, unsigned blocks = 0);
void emu_tma_store(const char* file, int line, int adds, const void* shared, const void* map, int column, int row,
                   int head = -1, int batch = -1);
// Called by the whole warp. `shape`: whether `a` points to the thread's registers, the columns, TB, TA, and whether to
// add, in bits 12, 3 and up, 2, 1 and 0.
void emu_wgmma(const char* file, int line, float* d, unsigned shape, uint64_t a, uint64_t b);
// Reports the line that it is called from.
void emu_aligned(const void* address, int bytes);
}

#define threadIdx emu_thread_idx()
#define blockIdx emu_block_idx()
#define blockDim emu_block_dim()
#define gridDim emu_grid_dim()
#define warpSize 32

// ---- Shared memory --------------------------------------------------------------------------------------------------

namespace emu {

// The last dimension of an array.
template <class T>
constexpr unsigned columns = 1;
template <class T, unsigned N>
constexpr unsigned columns<T[N]> = N;
template <class T, unsigned N, unsigned M>
constexpr unsigned columns<T[N][M]> = columns<T[M]>;

}  // namespace emu

// The address of the name string identifies the array: there is one for each instantiation of the enclosing function.
#define SMEM(T, name, dims)                                                                            \
  static const char name##_name[] = #name;                                                             \
  T(&name) dims = *reinterpret_cast<T(*) dims>(                                                         \
      emu_shared_static(name##_name, sizeof(T dims), alignof(T), sizeof(T), emu::columns<T dims>))
#define SMEM_DYN(T, name) T* name = reinterpret_cast<T*>(emu_shared_dynamic())

// ---- Barriers, fences -----------------------------------------------------------------------------------------------

#define __syncthreads() emu_barrier(__FILE__, __LINE__, 0, -1)
#define __syncwarp(...) emu_syncwarp(__FILE__, __LINE__, emu::mask(__VA_ARGS__))
#define __threadfence() emu_fence(__FILE__, __LINE__)
#define __trap() emu_trap(__FILE__, __LINE__)

namespace emu {

inline unsigned mask(unsigned m = 0xffffffffu) { return m; }

template <class To, class From>
inline __attribute__((always_inline)) To bits(From from) {
  static_assert(sizeof(To) >= sizeof(From));
  To to{};
  __builtin_memcpy(&to, &from, sizeof(From));
  return to;
}

template <class T>
inline __attribute__((always_inline)) T value(uint64_t from) {
  T to;
  __builtin_memcpy(&to, &from, sizeof(T));
  return to;
}

inline unsigned lane() {
  dim3 t = emu_thread_idx(), b = emu_block_dim();
  return (t.x + b.x * (t.y + b.y * t.z)) & 31;
}

// Checks the operand of an instruction that reads or writes rows of `bytes` bytes of shared memory.
inline __attribute__((always_inline)) void aligned_shared(const char* file, int line, const void* row, int bytes) {
  const int in_shared = emu_is_shared(row);
  if (!in_shared || (uintptr_t)row % bytes) emu_bad_address(file, line, in_shared, bytes);
}

// ---- Shuffles and votes ---------------------------------------------------------------------------------------------

enum Shuffle { kIndex, kUp, kDown, kXor };

template <class T>
inline T shuffle(const char* file, int line, Shuffle kind, unsigned mask, T var, int argument, int width = 32) {
  static const char* const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
  uint64_t all[32];
  emu_exchange(file, line, mask, names[kind], bits<uint64_t>(var), all);
  int me = lane(), first = me / width * width, from = me;
  switch (kind) {
    case kIndex: from = first + (argument & (width - 1)); break;
    case kUp: from = me - argument < first ? me : me - argument; break;
    case kDown: from = me + argument >= first + width ? me : me + argument; break;
    case kXor: from = (me ^ argument) >= first + width ? me : me ^ argument; break;
  }
  if (!(mask >> from & 1)) emu_bad_lane(file, line, mask, from);
  return value<T>(all[from]);
}

inline unsigned ballot(const char* file, int line, unsigned mask, int predicate) {
  uint64_t all[32];
  emu_exchange(file, line, mask, "vote", predicate != 0, all);
  unsigned votes = 0;
  for (int i = 0; i < 32; i++) votes |= (mask >> i & 1) && all[i] ? 1u << i : 0;
  return votes;
}

}  // namespace emu

#define __shfl_sync(mask, ...) emu::shuffle(__FILE__, __LINE__, emu::kIndex, mask, __VA_ARGS__)
#define __shfl_up_sync(mask, ...) emu::shuffle(__FILE__, __LINE__, emu::kUp, mask, __VA_ARGS__)
#define __shfl_down_sync(mask, ...) emu::shuffle(__FILE__, __LINE__, emu::kDown, mask, __VA_ARGS__)
#define __shfl_xor_sync(mask, ...) emu::shuffle(__FILE__, __LINE__, emu::kXor, mask, __VA_ARGS__)
#define __ballot_sync(mask, p) emu::ballot(__FILE__, __LINE__, mask, p)
#define __any_sync(mask, p) (emu::ballot(__FILE__, __LINE__, mask, p) != 0)
#define __all_sync(m, p) (emu::ballot(__FILE__, __LINE__, m, p) == (m))

// ---- Atomics --------------------------------------------------------------------------------------------------------

namespace emu {

// The numbers are those of src/device/cuda/driver/emulator/atomics.rs.
enum Atomic { kAdd = 0, kAddFloat = 1, kMax = 2, kMin = 3, kExchange = 4, kCompare = 5, kOr = 6, kMaxInt = 7, kMinInt = 8 };

inline __attribute__((always_inline)) unsigned atomic(const char* f, int l, Atomic op, unsigned* p, unsigned v,
                                                      unsigned compare = 0) {
  return emu_atomic(f, l, p, op, v, compare);
}
inline __attribute__((always_inline)) int atomic(const char* f, int l, Atomic op, int* p, int v, int compare = 0) {
  Atomic real = op == kMax ? kMaxInt : op == kMin ? kMinInt : op;
  return (int)emu_atomic(f, l, p, real, (unsigned)v, (unsigned)compare);
}
// CUDA has no other atomics on floats.
inline __attribute__((always_inline)) float atomic_float(const char* f, int l, Atomic op, float* p, float v) {
  return value<float>(emu_atomic(f, l, p, op, bits<uint32_t>(v), 0));
}
inline __attribute__((always_inline)) float add(const char* f, int l, float* p, float v) {
  return atomic_float(f, l, kAddFloat, p, v);
}
template <class T>
inline __attribute__((always_inline)) T add(const char* f, int l, T* p, T v) {
  return atomic(f, l, kAdd, p, v);
}
inline __attribute__((always_inline)) float exchange(const char* f, int l, float* p, float v) {
  return atomic_float(f, l, kExchange, p, v);
}
template <class T>
inline __attribute__((always_inline)) T exchange(const char* f, int l, T* p, T v) {
  return atomic(f, l, kExchange, p, v);
}

}  // namespace emu

#define atomicAdd(p, v) emu::add(__FILE__, __LINE__, p, v)
#define atomicMax(p, v) emu::atomic(__FILE__, __LINE__, emu::kMax, p, v)
#define atomicMin(p, v) emu::atomic(__FILE__, __LINE__, emu::kMin, p, v)
#define atomicOr(p, v) emu::atomic(__FILE__, __LINE__, emu::kOr, p, v)
#define atomicExch(p, v) emu::exchange(__FILE__, __LINE__, p, v)
#define atomicCAS(p, c, v) emu::atomic(__FILE__, __LINE__, emu::kCompare, p, v, c)

// ---- Types and arithmetic -------------------------------------------------------------------------------------------

// A vector is loaded and stored in one access, so its address must be a multiple of its size. Compilers may split the
// copy of a struct into smaller accesses, which check nothing; so the copy checks.
template <int BYTES>
struct alignas(BYTES) Vector {
  Vector() = default;
  Vector(const Vector& other) { emu_aligned(&other, BYTES); }
  Vector& operator=(const Vector& other) {
    emu_aligned(&other, BYTES);
    emu_aligned(this, BYTES);
    return *this;
  }
};

struct float2 : Vector<8> {
  float x, y;
};
struct uint2 : Vector<8> {
  unsigned x, y;
};
struct float4 : Vector<16> {
  float x, y, z, w;
};
struct uint4 : Vector<16> {
  unsigned x, y, z, w;
};
static_assert(sizeof(float2) == 8 && sizeof(uint2) == 8 && sizeof(float4) == 16 && sizeof(uint4) == 16);
inline float2 make_float2(float x, float y) { return {{}, x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {{}, x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {{}, x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {{}, x, y, z, w}; }
// There are no caches to give hints to.
DEVICE float4 __ldcs(const float4* p) { return *p; }
DEVICE void __stcs(float4* p, const float4& x) { *p = x; }

template <class T>
DEVICE T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
DEVICE T max(T a, T b) {
  return a < b ? b : a;
}
DEVICE float rsqrtf(float x) { return 1.0f / sqrtf(x); }
DEVICE unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }
DEVICE unsigned __float_as_uint(float x) { return emu::bits<unsigned>(x); }
DEVICE float __uint_as_float(unsigned x) { return emu::bits<float>(x); }
// A macro, since glibc declares a function of this name.
#define __expf(x) expf(x)
DEVICE float __fdividef(float x, float y) { return x / y; }

// ---- Kernels --------------------------------------------------------------------------------------------------------

namespace emu {

// What the launcher knows about a kernel. The order is that of src/device/cuda/driver/emulator/registry.rs.
struct Kernel {
  const char* name;
  const char* file;
  int line;
  int threads;
  int cluster;
  int parameters;
  const unsigned char* sizes;
  void (*run)(const void* const* parameters);
  const Kernel* next;
};

extern "C" const Kernel* emu_kernels;

template <auto F>
struct Describe;

template <class... T, void (*F)(T...)>
struct Describe<F> {
  static constexpr unsigned char sizes[sizeof...(T) + 1] = {sizeof(T)..., 0};

  template <unsigned... I>
  struct Indices {};
  template <unsigned N, unsigned... I>
  struct Count : Count<N - 1, N - 1, I...> {};
  template <unsigned... I>
  struct Count<0, I...> {
    using type = Indices<I...>;
  };

  // Not instrumented: parameters are not in device memory.
  template <unsigned... I>
  __attribute__((no_sanitize("thread"))) static void call(const void* const* p, Indices<I...>) {
    F(*static_cast<const T*>(p[I])...);
  }
  __attribute__((no_sanitize("thread"))) static void run(const void* const* p) {
    call(p, typename Count<sizeof...(T)>::type{});
  }
};

template <auto F>
struct Registration {
  Kernel kernel;

  __attribute__((no_sanitize("thread"))) Registration(const char* name, const char* file, int line, int threads,
                                                      int cluster)
      : kernel{name, file, line, threads, cluster, (int)sizeof(Describe<F>::sizes) - 1, Describe<F>::sizes, Describe<F>::run,
               emu_kernels} {
    emu_kernels = &kernel;
  }
};

}  // namespace emu

#define KERNEL(name, threads, min_blocks, ...) KERNEL_OF_CLUSTERS(name, 1, threads, min_blocks, __VA_ARGS__)
#define KERNEL_OF_CLUSTERS(name, blocks, threads, min_blocks, ...)                                      \
  static void name(__VA_ARGS__);                                                                        \
  static emu::Registration<&name> name##_registration(#name, __FILE__, __LINE__, threads, blocks);      \
  static void name(__VA_ARGS__)
