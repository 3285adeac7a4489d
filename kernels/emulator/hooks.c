// The functions that the compiler's instrumentation calls. Kernels are compiled with -fsanitize=thread and parts of
// -fsanitize=undefined, but neither runtime is linked; these functions take their place. Each access of an emulated
// thread arrives here together with its return address, which identifies the source line.
#include <stddef.h>
#include <stdint.h>

// Implemented in Rust: src/device/cuda/driver/emulator/ffi.rs.
void emu_access(const void* address, size_t bytes, int write, const void* pc);
void emu_watchdog(const void* pc);
void emu_undefined(int kind, const void* pc);
uint32_t emu_atomic_at(const char* file, int line, void* address, int operation, uint32_t value, uint32_t compare,
                       const void* pc);
void emu_cp_async_at(const char* file, int line, void* shared, const void* global, int bytes, int from_global,
                     const void* pc);
void emu_mbarrier_init_at(const char* file, int line, void* barrier, unsigned count, const void* pc);
void emu_mbarrier_arrive_at(const char* file, int line, void* barrier, unsigned bytes, int rank, const void* pc);
void emu_mbarrier_wait_at(const char* file, int line, void* barrier, unsigned parity, const void* pc);
void emu_tma_load_at(const char* file, int line, void* shared, const void* map, void* barrier, int column, int row,
                     int head, int batch, unsigned blocks, const void* pc);
void emu_tma_store_at(const char* file, int line, int adds, const void* shared, const void* map, int column, int row,
                      int head, int batch, const void* pc);
void emu_wgmma_at(const char* file, int line, float* d, unsigned shape, uint64_t a, uint64_t b, const void* pc);

typedef struct {
  unsigned x, y, z;
} dim3;

// The emulated thread that runs on this host thread. `checks`: accesses are checked against shadow memory. `fuel`:
// accesses left until the watchdog checks whether the thread spins. Outside kernels `checks` is 0 and `fuel` never runs
// out.
typedef struct {
  dim3 thread, block, block_dim, grid_dim;
  int checks;
  int64_t fuel;
} Current;

static _Thread_local Current current = {.fuel = INT64_MAX};

Current* emu_current(void) { return &current; }

dim3 emu_thread_idx(void) { return current.thread; }
dim3 emu_block_idx(void) { return current.block; }
dim3 emu_block_dim(void) { return current.block_dim; }
dim3 emu_grid_dim(void) { return current.grid_dim; }

// The list of kernels, which static constructors in the kernels' files build.
const void* emu_kernels = NULL;

#define ACCESS(address, bytes, write)                                                             \
  do {                                                                                            \
    if (--current.fuel <= 0) emu_watchdog(__builtin_return_address(0));                           \
    if (__builtin_expect(current.checks, 0)) emu_access(address, bytes, write, __builtin_return_address(0)); \
  } while (0)

#define PAIR(bytes)                                                   \
  void __tsan_read##bytes(void* a) { ACCESS(a, bytes, 0); }           \
  void __tsan_write##bytes(void* a) { ACCESS(a, bytes, 1); }          \
  void __tsan_unaligned_read##bytes(void* a) { ACCESS(a, bytes, 0); } \
  void __tsan_unaligned_write##bytes(void* a) { ACCESS(a, bytes, 1); } \
  void __tsan_volatile_read##bytes(void* a) { ACCESS(a, bytes, 0); }  \
  void __tsan_volatile_write##bytes(void* a) { ACCESS(a, bytes, 1); } \
  void __tsan_read##bytes##_pc(void* a, void* pc) {                   \
    (void)pc;                                                         \
    ACCESS(a, bytes, 0);                                              \
  }                                                                   \
  void __tsan_write##bytes##_pc(void* a, void* pc) {                  \
    (void)pc;                                                         \
    ACCESS(a, bytes, 1);                                              \
  }

PAIR(1)
PAIR(2)
PAIR(4)
PAIR(8)
PAIR(16)

void __tsan_read_range(void* a, size_t bytes) { ACCESS(a, bytes, 0); }
void __tsan_write_range(void* a, size_t bytes) { ACCESS(a, bytes, 1); }
void __tsan_func_entry(void* pc) { (void)pc; }
void __tsan_func_exit(void) {}
void __tsan_init(void) {}
void __tsan_vptr_update(void** a, void* b) {
  (void)a;
  (void)b;
}

// clang calls these in place of the library functions; gcc leaves memcpy and memset as they are.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  ACCESS((void*)from, bytes, 0);
  ACCESS(to, bytes, 1);
  return __builtin_memcpy(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  ACCESS(to, bytes, 1);
  return __builtin_memset(to, value, bytes);
}

// -fsanitize=bounds, alignment, shift, integer-divide-by-zero. The numbers are those of emulator/report.rs.
#define UNDEFINED(name, kind)                                             \
  void __ubsan_handle_##name(void* data, void* a, void* b) {              \
    (void)data;                                                           \
    (void)a;                                                              \
    (void)b;                                                              \
    if (current.fuel != INT64_MAX) emu_undefined(kind, __builtin_return_address(0)); \
  }

UNDEFINED(out_of_bounds, 0)
UNDEFINED(type_mismatch_v1, 1)
UNDEFINED(shift_out_of_bounds, 2)
UNDEFINED(divrem_overflow, 3)
UNDEFINED(pointer_overflow, 0)

// These pass on their return address, which is the call site in the kernel, so that a race with them can name it.
uint32_t emu_atomic(const char* file, int line, void* address, int operation, uint32_t value, uint32_t compare) {
  if (--current.fuel <= 0) emu_watchdog(__builtin_return_address(0));
  return emu_atomic_at(file, line, address, operation, value, compare, __builtin_return_address(0));
}
void emu_cp_async(const char* file, int line, void* shared, const void* global, int bytes, int from_global) {
  emu_cp_async_at(file, line, shared, global, bytes, from_global, __builtin_return_address(0));
}
void emu_mbarrier_init(const char* file, int line, void* barrier, unsigned count) {
  emu_mbarrier_init_at(file, line, barrier, count, __builtin_return_address(0));
}
void emu_mbarrier_arrive(const char* file, int line, void* barrier, unsigned bytes, int rank) {
  emu_mbarrier_arrive_at(file, line, barrier, bytes, rank, __builtin_return_address(0));
}
void emu_mbarrier_wait(const char* file, int line, void* barrier, unsigned parity) {
  emu_mbarrier_wait_at(file, line, barrier, parity, __builtin_return_address(0));
}
void emu_tma_load(const char* file, int line, void* shared, const void* map, void* barrier, int column, int row,
                  int head, int batch, unsigned blocks) {
  emu_tma_load_at(file, line, shared, map, barrier, column, row, head, batch, blocks, __builtin_return_address(0));
}
void emu_tma_store(const char* file, int line, int adds, const void* shared, const void* map, int column, int row,
                   int head, int batch) {
  emu_tma_store_at(file, line, adds, shared, map, column, row, head, batch, __builtin_return_address(0));
}
void emu_wgmma(const char* file, int line, float* d, unsigned shape, uint64_t a, uint64_t b) {
  emu_wgmma_at(file, line, d, shape, a, b, __builtin_return_address(0));
}

void emu_aligned(const void* address, int bytes) {
  if ((uintptr_t)address % bytes && current.fuel != INT64_MAX) emu_undefined(1, __builtin_return_address(0));
}
