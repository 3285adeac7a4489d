// Kernels whose reports are known word for word, and kernels that crash. `x` has 3 rows of 5 floats with a pitch of 7;
// `out` has 3 contiguous rows of 4.
#include "helper.cuh"

// Referenced by the tests, so that the linker keeps these kernels.
extern "C" int vcycle_reports() { return 1; }

KERNEL(report_read_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) out[0] = x[at];  // <- read
}

KERNEL(report_write_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) out[at] = x[0];  // <- write
}

KERNEL(report_input_bad, 32, 1, float* x, float* out, int at) {
  if (threadIdx.x == 0) x[at] = 1.0f;  // <- input
}

KERNEL(report_double_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) out[0] = (float)*reinterpret_cast<const double*>(x + at);  // <- double
}

KERNEL(report_unwritten_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) out[0] = out[at];  // <- unwritten
}

KERNEL(report_race_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x < 2) out[at] = x[0];  // <- race
}

KERNEL(report_shared_race_bad, 32, 1, const float* x, float* out, int at) {
  SMEM(float, tile, [4][8]);
  if (threadIdx.x < 2) tile[at / 8][at % 8] = x[0];  // <- shared_race
}

KERNEL(report_shared_unwritten_bad, 32, 1, const float* x, float* out, int at) {
  SMEM(float, sums, [16]);
  if (threadIdx.x == 0) out[0] = sums[at];  // <- shared_unwritten
}

// Accessed through a pointer, so that the compiler does not know the array.
KERNEL(report_shared_outside_bad, 32, 1, const float* x, float* out, int at) {
  SMEM(float, tile, [4][8]);
  if (threadIdx.x == 0) (&tile[0][0])[at] = x[0];  // <- shared_outside
}

KERNEL(report_helper_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) put(out + at, x[0]);  // <- helper
}

KERNEL(report_deep_helper_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) put_twice(out + at, x[0]);  // <- deep_helper
}

// The fence keeps the compiler from merging the two calls.
KERNEL(report_two_helpers_bad, 32, 1, const float* x, float* out, int at) {
  if (threadIdx.x == 0) put(out + at, x[0]);  // <- first_helper
  if (threadIdx.x == 1) {
    put(out + at, x[0]);  // <- second_helper
    __threadfence();
  }
}

// ---- Crashes ----------------------------------------------------------------------------------------------------------

KERNEL(crash_good, 32, 1, const float* x, float* out, int mebibytes) {
  if (threadIdx.x < 12) out[threadIdx.x] = 1.0f;
}

// Writes `mebibytes` MiB after the end of `out`.
KERNEL(crash_far_bad, 32, 1, const float* x, float* out, int mebibytes) {
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 3) out[12 + ((int64_t)mebibytes << 18)] = 1.0f;
}

KERNEL(crash_null_bad, 32, 1, const float* x, float* out, int mebibytes) {
  out[threadIdx.x % 12] = x[threadIdx.x];
}

static __noinline__ int deep(int n) {
  volatile int own[64];
  own[n % 64] = n;
  return n == 0 ? 0 : deep(n - 1) + own[n % 64];
}

KERNEL(crash_deep_bad, 32, 1, const float* x, float* out, int mebibytes) {
  out[0] = deep(1 << 20);
}

// A stack frame that is larger than the stack and the memory below it.
KERNEL(crash_wide_bad, 32, 1, const float* x, float* out, int mebibytes) {
  volatile char own[8 << 20];
  own[mebibytes] = 1;
  out[0] = own[mebibytes];
}

KERNEL(crash_unreachable_bad, 32, 1, const float* x, float* out, int mebibytes) { __builtin_trap(); }

KERNEL(crash_abort_bad, 32, 1, const float* x, float* out, int mebibytes) { __builtin_abort(); }
