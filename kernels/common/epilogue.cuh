// What surrounds a matrix product: out (+)= epilogue(z + bias) + residual (src/device/ops/linear.rs).
//
// It runs on z while that is in a register, which spares a pass over [M, N] for each of bias, activation and residual.
// T: elements of bias, pre and residual; Out: elements of out, which is float too when T is bf16. All of it is computed
// in float and rounded once, when it is written.
#pragma once

#include "activation.cuh"
#include "bands.cuh"
#include "element.cuh"

enum EpilogueKind { kNone = 0, kActivate = 1, kActivateGrad = 2 };

// `residual` may be `out`, so nothing here is `__restrict__`: a thread reads the residual of an element, then writes
// it.
template <class T, class Out>
struct Epilogue {
  Out* out;
  int out_pitch;
  const T* bias;   // [N], or null
  int kind;        // EpilogueKind
  int activation;  // ActivationKind
  T* pre;          // kActivate keeps z here (or null), kActivateGrad reads it
  int pre_pitch;
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
    z = activate<kShort<T, Out>>(around.activation, z);
  } else if (around.kind == kActivateGrad) {
    z *= activate_grad<kShort<T, Out>>(around.activation, to_float(around.pre[row_start(i, around.pre_pitch) + j]));
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

// Whether `write_piece` may write: all that is there can be accessed in pieces. float beside bf16 (gradients of
// weights) has nothing around it in a model, and no other code here.
template <class T, class Out>
DEVICE bool in_pieces(const Epilogue<T, Out>& around) {
  if (!in_pieces(around.out, around.out_pitch)) return false;
  if constexpr (sizeof(T) != sizeof(Out)) {
    return !around.bias && around.kind == kNone && !around.residual;
  } else {
    return in_pieces(around.bias, 0) && in_pieces(around.pre, around.pre_pitch) &&
           in_pieces(around.residual, around.residual_pitch);
  }
}

// As `write_out`, of the columns from `j` on, a multiple of their number; `bias` holds those of the columns or zeros.
template <class T, class Out>
DEVICE void write_piece(const Epilogue<T, Out>& around, int i, int j, Vec<Out> z, const Vec<Out>& bias) {
  constexpr int kSize = Vec<Out>::kSize;
  if constexpr (sizeof(T) == sizeof(Out)) {
#pragma unroll
    for (int e = 0; e < kSize; e++) z.v[e] += bias.v[e];
    T* pre = around.pre + row_start(i, around.pre_pitch) + j;
    // One test for all, and the code of each function once for each element.
    if (around.kind == kActivate) {
      if (around.pre) store(pre, z);
      if (around.activation == kGeluTanh) {
#pragma unroll
        for (int e = 0; e < kSize; e++) z.v[e] = gelu_tanh<kShort<T, Out>>(z.v[e]);
      } else {
#pragma unroll
        for (int e = 0; e < kSize; e++) z.v[e] = gelu_erf(z.v[e]);
      }
    } else if (around.kind == kActivateGrad) {
      const Vec<T> x = load(pre);
      if (around.activation == kGeluTanh) {
#pragma unroll
        for (int e = 0; e < kSize; e++) z.v[e] *= gelu_tanh_grad<kShort<T, Out>>(x.v[e]);
      } else {
#pragma unroll
        for (int e = 0; e < kSize; e++) z.v[e] *= gelu_erf_grad<kShort<T, Out>>(x.v[e]);
      }
    }
    if (around.residual) {
      const Vec<T> more = load(around.residual + row_start(i, around.residual_pitch) + j);
#pragma unroll
      for (int e = 0; e < kSize; e++) z.v[e] += more.v[e];
    }
  }
  Out* out = around.out + row_start(i, around.out_pitch) + j;
  if (around.accumulate) {
    const Vec<Out> was = load(out);
#pragma unroll
    for (int e = 0; e < kSize; e++) z.v[e] += was.v[e];
  }
  store(out, z);
}
