// The epilogue of a matrix product: out (+)= epilogue(z + bias) + residual (src/device/ops/linear.rs).
//
// It is applied to z while that is in a register, which saves a pass over [M, N] for each of bias, activation and
// residual. T is the type of bias, pre and residual; Out is the type of out, which is float too when T is bf16.
// Everything is computed in float and rounded once, when it is written.
#pragma once

#include "activation.cuh"
#include "bands.cuh"
#include "element.cuh"
#include "vector.cuh"

enum EpilogueKind { kNone = 0, kActivate = 1, kActivateGrad = 2 };

// `residual` may be `out`, and `value` may be `pre`, so nothing here is `__restrict__`: a thread reads its own elements
// before it writes them.
template <class T, class Out>
struct Epilogue {
  Out* out;
  int out_pitch;
  const T* bias;   // [N], or null
  int kind;        // EpilogueKind
  int activation;  // ActivationKind
  T* pre;          // saved pre-activation: kActivate writes z here (or null), kActivateGrad reads it
  int pre_pitch;
  T* value;  // kActivateGrad writes f(pre) here (or null); may be pre
  int value_pitch;
  const T* residual;  // or null
  int residual_pitch;
  int accumulate;
};

// The epilogue of this block's product in a batch of products. To be called at the end of a kernel: until then these
// pointers take no registers.
template <class T, class Out>
DEVICE Epilogue<T, Out> in_batch(Epilogue<T, Out> epilogue, int m) {
  epilogue.out += matrix_start(m, epilogue.out_pitch);
  if (epilogue.pre) epilogue.pre += matrix_start(m, epilogue.pre_pitch);
  if (epilogue.value) epilogue.value += matrix_start(m, epilogue.value_pitch);
  if (epilogue.residual) epilogue.residual += matrix_start(m, epilogue.residual_pitch);
  return epilogue;
}

// Whether activations use fast approximations: their results are rounded to bf16. (A float output of bf16 operands has
// no activation in a model; if it has one, it is computed accurately.)
template <class T, class Out>
constexpr bool kFast = sizeof(T) == 2 && sizeof(Out) == 2;

template <class T, class Out>
DEVICE void write_out(const Epilogue<T, Out>& epilogue, int i, int j, float z) {
  if (epilogue.bias) z += to_float(epilogue.bias[j]);
  if (epilogue.kind == kActivate) {
    if (epilogue.pre) epilogue.pre[row_start(i, epilogue.pre_pitch) + j] = to<T>(z);
    z = activate<kFast<T, Out>>(epilogue.activation, z).value;
  } else if (epilogue.kind == kActivateGrad) {
    const float x = to_float(epilogue.pre[row_start(i, epilogue.pre_pitch) + j]);
    const Activated both = activate<kFast<T, Out>>(epilogue.activation, x);
    if (epilogue.value) epilogue.value[row_start(i, epilogue.value_pitch) + j] = to<T>(both.value);
    z *= both.grad;
  }
  if (epilogue.residual) z += to_float(epilogue.residual[row_start(i, epilogue.residual_pitch) + j]);
  Out* out = epilogue.out + row_start(i, epilogue.out_pitch) + j;
  *out = to<Out>(epilogue.accumulate ? to_float(*out) + z : z);
}

// ---- Vectorised epilogue ------------------------------------------------------------------------------------------

// Whether rows `pitch` apart can be accessed 16 bytes at a time.
template <class T>
DEVICE bool vectorizable(const T* rows, int pitch) {
  return reinterpret_cast<unsigned long long>(rows) % 16 == 0 && pitch % Vec<T>::kSize == 0;
}

// Whether `write_out_vector` may be used: all operands can be accessed 16 bytes at a time. A float output of bf16
// operands (gradients of weights) has no other epilogue operands in a model, and is supported only without them.
template <class T, class Out>
DEVICE bool vectorizable(const Epilogue<T, Out>& epilogue) {
  if (!vectorizable(epilogue.out, epilogue.out_pitch)) return false;
  if constexpr (sizeof(T) != sizeof(Out)) {
    return !epilogue.bias && epilogue.kind == kNone && !epilogue.residual;
  } else {
    return vectorizable(epilogue.bias, 0) && vectorizable(epilogue.pre, epilogue.pre_pitch) &&
           vectorizable(epilogue.value, epilogue.value_pitch) &&
           vectorizable(epilogue.residual, epilogue.residual_pitch);
  }
}

// The epilogue operands of one vector; those that the epilogue does not have are not set.
template <class Out>
struct EpilogueOperands {
  Raw<Out> pre, residual, old;
};

// Loads the operands of the vectors from column `j` on of rows i, i + row_stride, ... before m. All loads are issued
// before `write_out_vector` waits for the first, so that ROWS rows share one memory latency.
template <int ROWS, class T, class Out>
DEVICE void load_epilogue_operands(EpilogueOperands<Out> (&operands)[ROWS], const Epilogue<T, Out>& epilogue, int i,
                                   int row_stride, int j, int m) {
  if constexpr (sizeof(T) == sizeof(Out)) {
    if (epilogue.kind == kActivateGrad) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int row = i + r * row_stride;
        if (row < m) operands[r].pre = load_raw(epilogue.pre + row_start(row, epilogue.pre_pitch) + j);
      }
    }
    if (epilogue.residual) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int row = i + r * row_stride;
        if (row < m) operands[r].residual = load_raw(epilogue.residual + row_start(row, epilogue.residual_pitch) + j);
      }
    }
  }
  if (epilogue.accumulate) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int row = i + r * row_stride;
      if (row < m) operands[r].old = load_raw(epilogue.out + row_start(row, epilogue.out_pitch) + j);
    }
  }
}

// As `write_out`, for a vector of columns from `j` on, where j is a multiple of its size. `operands` comes from
// `load_epilogue_operands`; `bias` holds the bias of these columns, or zeros.
template <class T, class Out>
DEVICE void write_out_vector(const Epilogue<T, Out>& epilogue, const EpilogueOperands<Out>& operands, int i, int j,
                             Vec<Out> z, const Vec<Out>& bias) {
  constexpr int kSize = Vec<Out>::kSize;
  if constexpr (sizeof(T) == sizeof(Out)) {
#pragma unroll
    for (int e = 0; e < kSize; e++) z.v[e] += bias.v[e];
    if (epilogue.kind == kActivate) {
      if (epilogue.pre) store(epilogue.pre + row_start(i, epilogue.pre_pitch) + j, z);
      // The slope is not used.
      Vec<Out> slope = {};
      activate_all<kFast<T, Out>>(epilogue.activation, z.v, slope.v);
    } else if (epilogue.kind == kActivateGrad) {
      // x holds the pre-activations, and afterwards their activations.
      Vec<Out> x = unpack(operands.pre);
      activate_all<kFast<T, Out>>(epilogue.activation, x.v, z.v);
      if (epilogue.value) store(epilogue.value + row_start(i, epilogue.value_pitch) + j, x);
    }
    if (epilogue.residual) {
      const Vec<Out> residual = unpack(operands.residual);
#pragma unroll
      for (int e = 0; e < kSize; e++) z.v[e] += residual.v[e];
    }
  }
  if (epilogue.accumulate) {
    const Vec<Out> old = unpack(operands.old);
#pragma unroll
    for (int e = 0; e < kSize; e++) z.v[e] += old.v[e];
  }
  store(epilogue.out + row_start(i, epilogue.out_pitch) + j, z);
}
