// AdamW over a whole arena in one pass (Loshchilov and Hutter, arXiv 1711.05101, as PyTorch computes it), with
// clipping:
//
//   g = grad min(1, max_norm / (norm + 1e-6))
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   p = p (1 - lr decay) - lr (m / bias1) / (sqrt(v / bias2) + eps)
//
// p, grad, m, v: n contiguous elements, n a multiple of 64; the byte decay_mask[i / 64] says whether weight decay
// applies to element i. What changes from step to step (lr, bias1, bias2, norm) is read from device memory, so that a
// captured graph can be replayed; every thread derives the few scalars of it anew, which is cheaper than a launch that
// would prepare them.
//
// Roofline: 28 bytes per element (four reads, three writes) for some 14 operations, a root and a quotient: bound by
// memory.
#include "common/kernel.cuh"
#include "common/philox.cuh"

constexpr int kThreads = 256;
// Elements of a thread, a block's width apart: enough to make the scalars that they share cheap.
constexpr int kEach = 4;
constexpr int kGroup = 64;

KERNEL(adamw_f32, kThreads, 4, float* __restrict__ params, const float* __restrict__ grads, float* __restrict__ m,
       float* __restrict__ v, const unsigned char* __restrict__ decay_mask, const float* __restrict__ norm,
       const StepState* __restrict__ state, int groups, float beta1, float rest1, float beta2, float rest2, float eps,
       float weight_decay, float max_norm) {
  float clip = fminf(max_norm / (*norm + 1e-6f), 1.0f);
  float step = state->lr / state->bias1;
  float root = 1.0f / sqrtf(state->bias2);
  float decayed = 1.0f - state->lr * weight_decay;

  long long first = row_start(blockIdx.x, kEach * kThreads), n = row_start(groups, kGroup);
  long long end = min(first + kEach * kThreads, n);
  for (long long i = first + threadIdx.x; i < end; i += kThreads) {
    float g = grads[i] * clip;
    float m_new = fmaf(beta1, m[i], rest1 * g);
    float v_new = fmaf(beta2, v[i], rest2 * g * g);
    float keep = decay_mask[i / kGroup] ? decayed : 1.0f;
    m[i] = m_new;
    v[i] = v_new;
    params[i] = params[i] * keep - step * m_new / fmaf(sqrtf(v_new), root, eps);
  }
}
