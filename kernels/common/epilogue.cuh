// What surrounds a matrix product: out (+)= epilogue(z + bias) + residual (src/device/ops/linear.rs).
//
// It runs on z while that is in a register, which spares a pass over [M, N] for each of bias, activation and residual.
// T: elements of bias, pre and residual; Out: elements of out, which is float too when T is bf16. All of it is computed
// in float and rounded once, when it is written.
#pragma once

#include "activation.cuh"
#include "bands.cuh"
#include "element.cuh"
#include "vector.cuh"

enum EpilogueKind { kNone = 0, kActivate = 1, kActivateGrad = 2 };

// `residual` may be `out`, and `value` may be `pre`, so nothing here is `__restrict__`: a thread reads those of its
// elements, then writes them.
template <class T, class Out>
struct Epilogue {
  Out* out;
  int out_pitch;
  const T* bias;   // [N], or null
  int kind;        // EpilogueKind
  int activation;  // ActivationKind
  T* pre;          // kActivate keeps z here (or null), kActivateGrad reads it
  int pre_pitch;
  T* value;  // kActivateGrad writes f(pre) here (or null); may be pre
  int value_pitch;
  const T* residual;  // or null
  int residual_pitch;
  int accumulate;
};

// What surrounds this block's product in a batch of them. For the end of a kernel: until then these pointers take no
// registers.
template <class T, class Out>
DEVICE Epilogue<T, Out> in_batch(Epilogue<T, Out> around, int m) {
  around.out += matrix_start(m, around.out_pitch);
  if (around.pre) around.pre += matrix_start(m, around.pre_pitch);
  if (around.value) around.value += matrix_start(m, around.value_pitch);
  if (around.residual) around.residual += matrix_start(m, around.residual_pitch);
  return around;
}

// Activations of what becomes bf16. (A float output beside bf16 has none in a model, and gets them as any other.)
template <class T, class Out>
constexpr bool kShort = sizeof(T) == 2 && sizeof(Out) == 2;

template <class T, class Out>
DEVICE void write_out(const Epilogue<T, Out>& around, int i, int j, float z) {
  if (around.bias) z += to_float(around.bias[j]);
  if (around.kind == kActivate) {
    if (around.pre) around.pre[row_start(i, around.pre_pitch) + j] = to<T>(z);
    z = activate<kShort<T, Out>>(around.activation, z).value;
  } else if (around.kind == kActivateGrad) {
    const float x = to_float(around.pre[row_start(i, around.pre_pitch) + j]);
    const Activated both = activate<kShort<T, Out>>(around.activation, x);
    if (around.value) around.value[row_start(i, around.value_pitch) + j] = to<T>(both.value);
    z *= both.grad;
  }
  if (around.residual) z += to_float(around.residual[row_start(i, around.residual_pitch) + j]);
  Out* out = around.out + row_start(i, around.out_pitch) + j;
  *out = to<Out>(around.accumulate ? to_float(*out) + z : z);
}

// ---- Several neighbours at once -----------------------------------------------------------------------------------

// Rows `pitch` apart can be accessed in pieces of 16 bytes.
template <class T>
DEVICE bool in_pieces(const T* rows, int pitch) {
  return reinterpret_cast<unsigned long long>(rows) % 16 == 0 && pitch % Vec<T>::kSize == 0;
}

// Whether `finish` may write: all that is there can be accessed in pieces. float beside bf16 (gradients of
// weights) has nothing around it in a model, and no other code here.
template <class T, class Out>
DEVICE bool in_pieces(const Epilogue<T, Out>& around) {
  if (!in_pieces(around.out, around.out_pitch)) return false;
  if constexpr (sizeof(T) != sizeof(Out)) {
    return !around.bias && around.kind == kNone && !around.residual;
  } else {
    return in_pieces(around.bias, 0) && in_pieces(around.pre, around.pre_pitch) &&
           in_pieces(around.value, around.value_pitch) && in_pieces(around.residual, around.residual_pitch);
  }
}

// What is read of the surroundings of one piece; the rest stays as it is.
template <class Out>
struct Around {
  Raw<Out> pre, residual, was;
};

// Of the pieces from column `j` on of rows i, i + apart, ... before m. All are on their way before `finish` waits for
// the first: one latency of memory for ROWS rows.
template <int ROWS, class T, class Out>
DEVICE void load_around(Around<Out> (&near)[ROWS], const Epilogue<T, Out>& around, int i, int apart, int j, int m) {
  if constexpr (sizeof(T) == sizeof(Out)) {
    if (around.kind == kActivateGrad) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int row = i + r * apart;
        if (row < m) near[r].pre = load_raw(around.pre + row_start(row, around.pre_pitch) + j);
      }
    }
    if (around.residual) {
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int row = i + r * apart;
        if (row < m) near[r].residual = load_raw(around.residual + row_start(row, around.residual_pitch) + j);
      }
    }
  }
  if (around.accumulate) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int row = i + r * apart;
      if (row < m) near[r].was = load_raw(around.out + row_start(row, around.out_pitch) + j);
    }
  }
}

// As `write_out`, of the columns from `j` on, a multiple of their number; `near` holds what `load_around` read, `bias`
// those of the columns or zeros.
template <class T, class Out>
DEVICE void finish(const Epilogue<T, Out>& around, const Around<Out>& near, int i, int j, Vec<Out> z,
                   const Vec<Out>& bias) {
  constexpr int kSize = Vec<Out>::kSize;
  if constexpr (sizeof(T) == sizeof(Out)) {
#pragma unroll
    for (int e = 0; e < kSize; e++) z.v[e] += bias.v[e];
    if (around.kind == kActivate) {
      if (around.pre) store(around.pre + row_start(i, around.pre_pitch) + j, z);
      // The slope is wanted by nobody.
      Vec<Out> slope = {};
      activate_all<kShort<T, Out>>(around.activation, z.v, slope.v);
    } else if (around.kind == kActivateGrad) {
      // First inputs, then values.
      Vec<Out> x = unpack(near.pre);
      activate_all<kShort<T, Out>>(around.activation, x.v, z.v);
      if (around.value) store(around.value + row_start(i, around.value_pitch) + j, x);
    }
    if (around.residual) {
      const Vec<Out> more = unpack(near.residual);
#pragma unroll
      for (int e = 0; e < kSize; e++) z.v[e] += more.v[e];
    }
  }
  if (around.accumulate) {
    const Vec<Out> was = unpack(near.was);
#pragma unroll
    for (int e = 0; e < kSize; e++) z.v[e] += was.v[e];
  }
  store(around.out + row_start(i, around.out_pitch) + j, z);
}
