// Softmax, cross-entropy and the gradient of the logits. With label smoothing s, q = (1 - s) target + s / V, where
// target is onehot(label), or share onehot(label) + (1 - share) onehot(other) if there is a second label for each row:
//
//   losses[n] = sum over v of q[v] (lse - logits[n, v]) = (1 - s) (lse - target logits[n]) + s (lse - mean of the row)
//   loss = weight (sum over n of losses[n]) / scored
//   dlogits[n, v] = weight (exp(logits[n, v] - lse) - q[v]) / scored
//
// lse is the row's log-sum-exp, computed with the largest logit subtracted. scored is *batch_scored if given (the count
// of the whole batch, of which these rows are a micro-batch), else the number of rows whose label is not `ignore`; at
// least 1. The other rows have loss and gradient 0. A label outside the vocabulary makes its row, and with it
// the loss, NaN: a device has no other way to report an error.
//
// logits, dlogits: [N, V] in rows of their own pitch, both float or both bf16; labels: [N]; others and share: [N], or
// null; share, losses: [N], loss and batch_scored (or null): [1], always float. dlogits may be absent (null), or logits
// itself, which is why neither is __restrict__: what the gradient of an element needs of other elements of the row is
// read before a barrier (or by the same thread), before the row is overwritten.
//
// There are three launches, because the gradient needs `scored` first: cross_entropy_count writes it to loss[0], the
// kernels for rows read it there, and cross_entropy_loss replaces it by the loss. Where the logits are a strip of more
// rows, the first launch covers the labels of all rows, the second one the strip, and the third one the losses of all
// rows up to the end of the strip.
//
// Roofline: 8 bytes per logit, or 12 if a row of 4 V bytes has left the cache before it is read again for the gradient;
// half of that in bf16; two exponentials and some ten operations: memory-bound. In bf16 an H100's memory delivers 3.6
// logits per cycle to each SM, and two exponentials for each are 7 of the 16 that its special function units compute.
// So `vector` rescales its sum once per 16 or 32 logits and not for each, and uses the fast exponential, with an error
// of 2 + 1.2 |z| ulp for exp(z), z <= 0, which is at most 2 ulp of the largest term. Two blocks of 512 threads per SM
// (64 registers), with four loads of 16 bytes in flight per thread, keep 64 KB in flight, where 16 KB cover the latency
// of memory. Their rows, of 100 KB for GPT-2's vocabulary in bf16, stay in L2 until they are read again: 132 x 2 x 100
// KB are 26 of its 50 MB; in f32 they just do not fit. Rows that are ignored (85 % of BERT's) cost 4 or 2 bytes per
// logit, to write zeros.
#include "common/reduce.cuh"
#include "common/vector.cuh"

constexpr int kLossThreads = 1024;

KERNEL(cross_entropy_count, kLossThreads, 1, const int* __restrict__ labels, const float* __restrict__ batch_scored,
       float* __restrict__ loss, int rows, int ignore) {
  int count = 0;
  for (int n = threadIdx.x; !batch_scored && n < rows; n += kLossThreads) count += labels[n] != ignore;
  count = block_sum<kLossThreads>(count);
  if (threadIdx.x == 0) *loss = batch_scored ? *batch_scored : (float)count;
}

KERNEL(cross_entropy_loss_f32, kLossThreads, 1, const float* __restrict__ losses, float* loss, int rows, float weight) {
  double sum = 0.0;
  for (int n = threadIdx.x; n < rows; n += kLossThreads) sum += losses[n];
  sum = block_sum<kLossThreads>(sum);
  if (threadIdx.x == 0) *loss = (float)(weight * sum / fmaxf(*loss, 1.0f));
}

// A running log-sum-exp over the logits seen so far: their maximum, the sum of exp(z - largest), and the sum of z, for
// label smoothing.
struct Softmax {
  float largest, sum, logit_sum;
};

// Finite, so that a logit of -infinity has probability 0 even if it comes first.
DEVICE Softmax softmax_empty() { return {-3.402823466e38f, 0.0f, 0.0f}; }

DEVICE void softmax_add(Softmax& row, float z) {
  if (z > row.largest) {
    row.sum = row.sum * expf(row.largest - z) + 1.0f;
    row.largest = z;
  } else {
    row.sum += expf(z - row.largest);
  }
  row.logit_sum += z;
}

DEVICE void softmax_merge(Softmax& row, const Softmax& other) {
  float largest = fmaxf(row.largest, other.largest);
  row.sum = row.sum * expf(row.largest - largest) + other.sum * expf(other.largest - largest);
  row.largest = largest;
  row.logit_sum += other.logit_sum;
}

template <class T>
DEVICE float logit_of(const T* logits, int label, int vocab) {
  return label >= 0 && label < vocab ? to_float(logits[label]) : __uint_as_float(0x7fc00000u);
}

// The target distribution of a row.
struct Target {
  int label, other;  // other: -1 for none
  float share;       // weight of the first label
};

DEVICE Target target_of(const int* labels, const int* others, const float* share, int n) {
  Target target = {labels[n], -1, 1.0f};
  if (others) {
    target.other = others[n];
    target.share = share[n];
  }
  return target;
}

// The logits weighted by the target. A second label outside the vocabulary makes this NaN, just as a first one does.
template <class T>
DEVICE float logit_at(const T* logits, const Target& target, bool mixed, int vocab) {
  const float z = logit_of(logits, target.label, vocab);
  return mixed ? target.share * z + (1.0f - target.share) * logit_of(logits, target.other, vocab) : z;
}

DEVICE float loss_of(const Softmax& row, float at_label, int vocab, float smoothing) {
  float lse = row.largest + logf(row.sum);
  float loss = (1.0f - smoothing) * (lse - at_label);
  // The mean of the row is -infinity where a logit is, which must not matter without smoothing.
  return smoothing > 0.0f ? loss + smoothing * (lse - row.logit_sum / vocab) : loss;
}

// The gradient of one row: exp(z - largest) scale - off, minus `hit` at the label, minus `other_hit` at the other
// label.
struct Gradient {
  float scale, off, hit, other_hit;
};

// If `at_label` is NaN, so is the whole gradient of the row.
DEVICE Gradient gradient_of(const Softmax& row, float at_label, const Target& target, int vocab, float smoothing,
                            float each) {
  if (at_label != at_label) each = at_label;
  const float hit = each * (1.0f - smoothing);
  return {each / row.sum, each * smoothing / vocab, hit * target.share, hit * (1.0f - target.share)};
}

// Subtracts from `d` the target at column `v`; both labels may be the same column.
DEVICE float less_target(const Gradient& gradient, const Target& target, float d, int v) {
  if (v == target.label) d -= gradient.hit;
  if (v == target.other) d -= gradient.other_hit;
  return d;
}

DEVICE float gradient_at(const Gradient& gradient, const Softmax& row, const Target& target, float z, int v) {
  return less_target(gradient, target, fmaf(expf(z - row.largest), gradient.scale, -gradient.off), v);
}

// One thread per row. Neighbouring threads read V elements apart, so each thread's load fetches a sector of its own.
constexpr int kNaiveThreads = 64;
// Logits that are summed separately: many small exponentials would be rounded away if they were added to a sum of
// thousands one by one.
constexpr int kRun = 128;

#define NAIVE_PARAMETERS(T) \
  const T* logits, const int* __restrict__ labels, const int* __restrict__ others, const float* __restrict__ share, \
      const float* __restrict__ loss, float* __restrict__ losses, T* dlogits, int rows, int vocab, \
      int logits_pitch, int dlogits_pitch, int ignore, float smoothing, float weight
#define NAIVE_ARGUMENTS \
  logits, labels, others, share, loss, losses, dlogits, rows, vocab, logits_pitch, dlogits_pitch, ignore, smoothing, \
      weight

template <class T>
DEVICE void cross_entropy_naive(NAIVE_PARAMETERS(T)) {
  int n = blockIdx.x * kNaiveThreads + threadIdx.x;
  if (n >= rows) return;
  const Target target = target_of(labels, others, share, n);
  logits += row_start(n, logits_pitch);
  if (dlogits) dlogits += row_start(n, dlogits_pitch);
  if (target.label == ignore) {
    losses[n] = 0.0f;
    for (int v = 0; dlogits && v < vocab; v++) dlogits[v] = to<T>(0.0f);
    return;
  }
  Softmax row = softmax_empty();
  for (int first = 0; first < vocab; first += kRun) {
    Softmax run = softmax_empty();
    for (int v = first; v < min(first + kRun, vocab); v++) softmax_add(run, to_float(logits[v]));
    softmax_merge(row, run);
  }
  float at_label = logit_at(logits, target, others != nullptr, vocab);
  losses[n] = loss_of(row, at_label, vocab, smoothing);
  Gradient gradient = gradient_of(row, at_label, target, vocab, smoothing, weight / fmaxf(*loss, 1.0f));
  for (int v = 0; dlogits && v < vocab; v++) {
    dlogits[v] = to<T>(gradient_at(gradient, row, target, to_float(logits[v]), v));
  }
}

KERNEL(cross_entropy_naive_f32, kNaiveThreads, 4, NAIVE_PARAMETERS(float)) { cross_entropy_naive(NAIVE_ARGUMENTS); }

KERNEL(cross_entropy_naive_bf16, kNaiveThreads, 4, NAIVE_PARAMETERS(bf16)) { cross_entropy_naive(NAIVE_ARGUMENTS); }

// One block per row. The first pass reads it with coalesced loads, and each thread keeps a running log-sum-exp, so that
// one pass finds the maximum and the sum. The second pass reads the row again, mostly from cache, and writes the
// gradient.
constexpr int kThreads = 256;

#define ROW_PARAMETERS(T) \
  const T* logits, const int* __restrict__ labels, const int* __restrict__ others, const float* __restrict__ share, \
      const float* __restrict__ loss, float* __restrict__ losses, T* dlogits, int vocab, \
      int logits_pitch, int dlogits_pitch, int ignore, float smoothing, float weight
#define ROW_ARGUMENTS \
  logits, labels, others, share, loss, losses, dlogits, vocab, logits_pitch, dlogits_pitch, ignore, smoothing, weight

template <class T>
DEVICE void cross_entropy_block(ROW_PARAMETERS(T)) {
  int n = blockIdx.x;
  const Target target = target_of(labels, others, share, n);
  logits += row_start(n, logits_pitch);
  if (dlogits) dlogits += row_start(n, dlogits_pitch);
  // All threads of the block take the same branch, barriers included.
  if (target.label == ignore) {
    if (threadIdx.x == 0) losses[n] = 0.0f;
    for (int v = threadIdx.x; dlogits && v < vocab; v += kThreads) dlogits[v] = to<T>(0.0f);
  } else {
    Softmax own = softmax_empty();
    for (int v = threadIdx.x; v < vocab; v += kThreads) softmax_add(own, to_float(logits[v]));
    // Read before the barriers in the reductions: after them the owner of this element may overwrite it.
    float at_label = logit_at(logits, target, others != nullptr, vocab);
    Softmax row;
    row.largest = block_max<kThreads>(own.largest);
    row.sum = block_sum<kThreads>(own.sum * expf(own.largest - row.largest));
    row.logit_sum = block_sum<kThreads>(own.logit_sum);
    if (threadIdx.x == 0) losses[n] = loss_of(row, at_label, vocab, smoothing);
    Gradient gradient = gradient_of(row, at_label, target, vocab, smoothing, weight / fmaxf(*loss, 1.0f));
    for (int v = threadIdx.x; dlogits && v < vocab; v += kThreads) {
      dlogits[v] = to<T>(gradient_at(gradient, row, target, to_float(logits[v]), v));
    }
  }
}

KERNEL(cross_entropy_block_f32, kThreads, 4, ROW_PARAMETERS(float)) { cross_entropy_block(ROW_ARGUMENTS); }

KERNEL(cross_entropy_block_bf16, kThreads, 4, ROW_PARAMETERS(bf16)) { cross_entropy_block(ROW_ARGUMENTS); }

// As `block`, 16 bytes at a time. Rows begin at multiples of 16 bytes and end anywhere: the first threads take the
// elements after the last whole vector.

// Vectors that a thread loads at a time, which share one rescaling of the sum.
constexpr int kStrip = 4;

// Adds COUNT vectors `stride` elements apart.
template <int COUNT, class T>
DEVICE void softmax_add_strip(Softmax& row, const T* logits, int stride) {
  constexpr int kEach = Vec<T>::kSize;
  Raw<T> raw[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; k++) raw[k] = load_raw(logits + k * stride);
  float largest = row.largest, sum = 0.0f, logit_sum = 0.0f;
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    const Vec<T> z = unpack(raw[k]);
#pragma unroll
    for (int j = 0; j < kEach; j++) largest = fmaxf(largest, z.v[j]);
  }
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    const Vec<T> z = unpack(raw[k]);
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      sum += __expf(z.v[j] - largest);
      logit_sum += z.v[j];
    }
  }
  row.sum = fmaf(row.sum, __expf(row.largest - largest), sum);
  row.largest = largest;
  row.logit_sum += logit_sum;
}

template <int COUNT, class T>
DEVICE void write_gradient_strip(const Gradient& gradient, const Softmax& row, const Target& target, const T* logits,
                                 T* dlogits, int first, int stride) {
  constexpr int kEach = Vec<T>::kSize;
  Raw<T> raw[COUNT];
#pragma unroll
  for (int k = 0; k < COUNT; k++) raw[k] = load_raw(logits + first + k * stride);
#pragma unroll
  for (int k = 0; k < COUNT; k++) {
    int v = first + k * stride;
    Vec<T> z = unpack(raw[k]);
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      const float d = fmaf(__expf(z.v[j] - row.largest), gradient.scale, -gradient.off);
      z.v[j] = less_target(gradient, target, d, v + j);
    }
    store(dlogits + v, z);
  }
}

// Combines those of all lanes of a warp, in place.
DEVICE void softmax_warp(Softmax& row) {
  float largest = warp_max(row.largest);
  row.sum = warp_sum(row.sum * __expf(row.largest - largest));
  row.logit_sum = warp_sum(row.logit_sum);
  row.largest = largest;
}

template <int THREADS, class T>
DEVICE void cross_entropy_vector(ROW_PARAMETERS(T)) {
  constexpr int kEach = Vec<T>::kSize, kStride = THREADS * kEach;
  SMEM(Softmax, partial, [THREADS / 32]);
  int n = blockIdx.x;
  const Target target = target_of(labels, others, share, n);
  // The end of the last whole vector; the first column of this thread, and its column after `whole`.
  int whole = vocab / kEach * kEach, begin = threadIdx.x * kEach, tail = whole + threadIdx.x;
  logits += row_start(n, logits_pitch);
  if (dlogits) dlogits += row_start(n, dlogits_pitch);
  // All threads of the block take the same branch, barrier included.
  if (target.label == ignore) {
    if (threadIdx.x == 0) losses[n] = 0.0f;
    if (dlogits) {
      for (int v = begin; v < whole; v += kStride) store(dlogits + v, Vec<T>{});
      if (tail < vocab) dlogits[tail] = to<T>(0.0f);
    }
    return;
  }
  Softmax row = softmax_empty();
  int v = begin;
  for (; v + (kStrip - 1) * kStride < whole; v += kStrip * kStride) {
    softmax_add_strip<kStrip>(row, logits + v, kStride);
  }
  for (; v < whole; v += kStride) softmax_add_strip<1>(row, logits + v, kStride);
  if (tail < vocab) softmax_add(row, to_float(logits[tail]));
  // Read before the barrier: after it the owner of this element may overwrite it.
  float at_label = logit_at(logits, target, others != nullptr, vocab);
  softmax_warp(row);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = row;
  __syncthreads();
  row = threadIdx.x % 32 < THREADS / 32 ? partial[threadIdx.x % 32] : softmax_empty();
  softmax_warp(row);
  if (threadIdx.x == 0) losses[n] = loss_of(row, at_label, vocab, smoothing);
  if (!dlogits) return;
  Gradient gradient = gradient_of(row, at_label, target, vocab, smoothing, weight / fmaxf(*loss, 1.0f));
  for (v = begin; v + (kStrip - 1) * kStride < whole; v += kStrip * kStride) {
    write_gradient_strip<kStrip>(gradient, row, target, logits, dlogits, v, kStride);
  }
  for (; v < whole; v += kStride) write_gradient_strip<1>(gradient, row, target, logits, dlogits, v, kStride);
  if (tail < vocab) dlogits[tail] = to<T>(gradient_at(gradient, row, target, to_float(logits[tail]), tail));
}

KERNEL(cross_entropy_vec16_128_f32, 128, 8, ROW_PARAMETERS(float)) { cross_entropy_vector<128>(ROW_ARGUMENTS); }

KERNEL(cross_entropy_vec16_128_bf16, 128, 8, ROW_PARAMETERS(bf16)) { cross_entropy_vector<128>(ROW_ARGUMENTS); }

KERNEL(cross_entropy_vec16_512_f32, 512, 2, ROW_PARAMETERS(float)) { cross_entropy_vector<512>(ROW_ARGUMENTS); }

KERNEL(cross_entropy_vec16_512_bf16, 512, 2, ROW_PARAMETERS(bf16)) { cross_entropy_vector<512>(ROW_ARGUMENTS); }
