// What surrounds a matrix product: out (+)= epilogue(z + bias) + residual (src/device/ops/linear.rs).
//
// It runs on z while that is in a register, which spares a pass over [M, N] for each of bias, activation and
// residual.
#pragma once

#include "activation.cuh"

enum EpilogueKind { kNone = 0, kActivate = 1, kActivateGrad = 2 };

// `residual` may be `out`, so nothing here is `__restrict__`: a thread reads the residual of an element, then writes
// it.
struct Epilogue {
  float* out;
  int out_pitch;
  const float* bias;  // [N], or null
  int kind;           // EpilogueKind
  int activation;     // ActivationKind
  float* pre;         // kActivate keeps z here (or null), kActivateGrad reads it
  int pre_pitch;
  const float* residual;  // or null
  int residual_pitch;
  int accumulate;
};

DEVICE void write_out(const Epilogue& around, int i, int j, float z) {
  if (around.bias) z += around.bias[j];
  if (around.kind == kActivate) {
    if (around.pre) around.pre[row_start(i, around.pre_pitch) + j] = z;
    z = activate(around.activation, z);
  } else if (around.kind == kActivateGrad) {
    z *= activate_grad(around.activation, around.pre[row_start(i, around.pre_pitch) + j]);
  }
  if (around.residual) z += around.residual[row_start(i, around.residual_pitch) + j];
  float* out = around.out + row_start(i, around.out_pitch) + j;
  *out = around.accumulate ? *out + z : z;
}
