// AdamW over a whole arena in one pass (Loshchilov and Hutter, arXiv 1711.05101, as PyTorch computes it), with
// clipping:
//
//   g = grad min(1, max_norm / (norm + 1e-6))
//   m = beta1 m + (1 - beta1) g
//   v = beta2 v + (1 - beta2) g^2
//   p = p (1 - lr decay) - lr (m / bias1) / (sqrt(v / bias2) + eps)
//   copy = p rounded to bf16, which the next step computes with
//
// p, grad, m, v: n contiguous floats, n a multiple of 64. copy: n bf16, or absent (null). The byte decay_mask[i / 64]
// says whether weight decay applies to element i. Everything that changes from step to step (lr, bias1, bias2, norm) is
// read from device memory, so that a captured graph can be replayed. Every thread recomputes the few scalars derived
// from it, which is cheaper than a separate launch.
//
// Roofline: 28 bytes per element (four reads, three writes), 30 with a copy, for some 14 operations, a square root and
// a division: memory-bound. An H100 gives an SM 25 bytes per nanosecond after a latency of some 600 ns, so 16 KB must
// be in flight. `naive` has four loads of 4 bytes in flight for each of 1024 threads or more, 16 KB; `vector` four or
// eight of 16 bytes, 64 to 128 KB, and a quarter of the instructions.
#include "common/philox.cuh"
#include "common/vector.cuh"

constexpr int kThreads = 256;
// Elements of a thread, a block's width apart: enough to amortise the scalars that they share.
constexpr int kEach = 4;
constexpr int kGroup = 64;

#define ADAMW_PARAMETERS \
  float* __restrict__ params, const float* __restrict__ grads, float* __restrict__ m, float* __restrict__ v, \
      const unsigned char* __restrict__ decay_mask, const float* __restrict__ norm, \
      const StepState* __restrict__ state, bf16* __restrict__ copy, int groups, float beta1, float one_minus_beta1, \
      float beta2, float one_minus_beta2, float eps, float weight_decay, float max_norm

KERNEL(adamw_f32, kThreads, 4, ADAMW_PARAMETERS) {
  float clip = fminf(max_norm / (*norm + 1e-6f), 1.0f);
  float step = state->lr / state->bias1;
  float root = 1.0f / sqrtf(state->bias2);
  float decayed = 1.0f - state->lr * weight_decay;

  long long first = row_start(blockIdx.x, kEach * kThreads), n = row_start(groups, kGroup);
  long long end = min(first + kEach * kThreads, n);
  for (long long i = first + threadIdx.x; i < end; i += kThreads) {
    float g = grads[i] * clip;
    float m_new = fmaf(beta1, m[i], one_minus_beta1 * g);
    float v_new = fmaf(beta2, v[i], one_minus_beta2 * g * g);
    float keep = decay_mask[i / kGroup] ? decayed : 1.0f;
    float p = params[i] * keep - step * m_new / fmaf(sqrtf(v_new), root, eps);
    m[i] = m_new;
    v[i] = v_new;
    params[i] = p;
    if (copy) copy[i] = to<bf16>(p);
  }
}

// Groups of four neighbouring elements of a thread, a block's width apart.
constexpr int kVectors = 2;

KERNEL(adamw_vec16_f32, kThreads, 3, ADAMW_PARAMETERS) {
  long long first = row_start(blockIdx.x, kVectors * 4 * kThreads) + 4 * threadIdx.x, n = row_start(groups, kGroup);
  Vec<float> p[kVectors], g[kVectors], m_all[kVectors], v_all[kVectors];
  bool decays[kVectors];
  // All loads are issued before the scalars are computed, so that they overlap with the loads of the scalars.
#pragma unroll
  for (int k = 0; k < kVectors; k++) {
    long long i = first + k * 4 * kThreads;
    if (i < n) {
      g[k] = load(grads + i);
      m_all[k] = load(m + i);
      v_all[k] = load(v + i);
      p[k] = load(params + i);
      decays[k] = decay_mask[i / kGroup];
    }
  }
  float clip = fminf(max_norm / (*norm + 1e-6f), 1.0f);
  float step = state->lr / state->bias1;
  float root = 1.0f / sqrtf(state->bias2);
  float decayed = 1.0f - state->lr * weight_decay;
#pragma unroll
  for (int k = 0; k < kVectors; k++) {
    long long i = first + k * 4 * kThreads;
    if (i < n) {
      float keep = decays[k] ? decayed : 1.0f;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float clipped = g[k].v[j] * clip;
        float m_new = fmaf(beta1, m_all[k].v[j], one_minus_beta1 * clipped);
        float v_new = fmaf(beta2, v_all[k].v[j], one_minus_beta2 * clipped * clipped);
        m_all[k].v[j] = m_new;
        v_all[k].v[j] = v_new;
        p[k].v[j] = p[k].v[j] * keep - step * m_new / fmaf(sqrtf(v_new), root, eps);
      }
      store(m + i, m_all[k]);
      store(v + i, v_all[k]);
      store(params + i, p[k]);
      if (copy) store4(copy + i, p[k]);
    }
  }
}
