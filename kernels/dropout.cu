// out = residual + keep(x) / (1 - p). The backward pass is the same operation: dx = keep(dout) / (1 - p) with the same
// mask.
//
// x, residual and out: [N, C] in rows, as in fill.cu, all float or all bf16. residual may be absent (null), and out may
// be x itself, which is why neither is __restrict__: each element is read before the same thread writes it. No mask is
// stored: whether element (n, c) survives is a pure function of seed, step, site and the index n C + c
// (common/philox.cuh). Seed and step are read from device memory, so that a captured graph can be replayed at every
// step.
//
// Roofline: 8 bytes per element, 12 with a residual, half of that in bf16. Philox computes four words at a time with
// some 70 integer instructions, so one call per element would take longer than the memory traffic. A warp of `naive`
// therefore takes 128 neighbours: each lane draws four of them at once, as four bits, and a shuffle gives every lane
// the bit of the element that it loads. That takes 20 instructions instead of 70, and loads and stores stay coalesced.
// A thread of `vector` has four or eight neighbours in one 16-byte access anyway: one or two calls and no shuffle. In
// bf16 without a residual this is just about what the memory delivers (3.6 elements per cycle for each SM of an H100,
// 128 instructions).
//
// The kernels named `unit` keep or drop `unit` neighbours together, by the index (n C + c) / unit: stochastic depth,
// where a unit is all elements of a sample. The index is the same for nearly all of a warp, but each thread computes
// it: one call of Philox and one division per vector.
#include "common/philox.cuh"
#include "common/reduce.cuh"
#include "common/vector.cuh"

constexpr int kThreads = 256;

#define DROPOUT_PARAMETERS(T) \
  const T* x, const T* __restrict__ residual, T* out, const StepState* __restrict__ state, int width, int last, \
      int x_pitch, int residual_pitch, int out_pitch, unsigned site, float p
#define DROPOUT_ARGUMENTS x, residual, out, state, width, last, x_pitch, residual_pitch, out_pitch, site, p

template <class T>
DEVICE void dropout(DROPOUT_PARAMETERS(T)) {
  const Dropout drop = dropout_of(state, site, p);
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  if (residual) residual += row_start(blockIdx.x, residual_pitch);
  out += row_start(blockIdx.x, out_pitch);
  // Words come in blocks of four by index, and a row may begin within a block, so columns are counted from the start of
  // that block.
  long long index = row_start(blockIdx.x, width);
  int shift = index % 4, lane = threadIdx.x % 32;
  // All lanes of a warp have the same trip count, since they take part in shuffles.
  for (int first = (blockIdx.y * kThreads + threadIdx.x - lane) * 4; first < columns + shift;
       first += gridDim.y * kThreads * 4) {
    uint4 words = dropout_words(drop, (index - shift + first) / 4 + lane);
    unsigned keeps = (words.x >= drop.threshold) | (words.y >= drop.threshold) << 1 |
                     (words.z >= drop.threshold) << 2 | (words.w >= drop.threshold) << 3;
#pragma unroll
    for (int k = 0; k < 4; k++) {
      // Element 32 k + lane of the 128 was drawn by lane (32 k + lane) / 4, as its bit lane % 4.
      unsigned bits = __shfl_sync(kAllLanes, keeps, 8 * k + lane / 4);
      int c = first - shift + 32 * k + lane;
      if (c >= 0 && c < columns) {
        float y = bits >> lane % 4 & 1 ? to_float(x[c]) * drop.scale : 0.0f;
        out[c] = to<T>(residual ? y + to_float(residual[c]) : y);
      }
    }
  }
}

KERNEL(dropout_f32, kThreads, 4, DROPOUT_PARAMETERS(float)) { dropout(DROPOUT_ARGUMENTS); }

KERNEL(dropout_bf16, kThreads, 4, DROPOUT_PARAMETERS(bf16)) { dropout(DROPOUT_ARGUMENTS); }

// For rows that begin and end at multiples of 16 bytes, and so at whole blocks of four words.
template <class T>
DEVICE void dropout_vector(DROPOUT_PARAMETERS(T)) {
  constexpr int kEach = Vec<T>::kSize;
  const Dropout drop = dropout_of(state, site, p);
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  if (residual) residual += row_start(blockIdx.x, residual_pitch);
  out += row_start(blockIdx.x, out_pitch);
  long long index = row_start(blockIdx.x, width);
  for (int c = (blockIdx.y * kThreads + threadIdx.x) * kEach; c < columns; c += gridDim.y * kThreads * kEach) {
    // These loads are in flight while Philox computes.
    const Raw<T> values = load_raw(x + c);
    Raw<T> old = {};
    if (residual) old = load_raw(residual + c);
    unsigned words[kEach];
#pragma unroll
    for (int j = 0; j < kEach; j += 4) {
      const uint4 four = dropout_words(drop, (index + c + j) / 4);
      words[j] = four.x;
      words[j + 1] = four.y;
      words[j + 2] = four.z;
      words[j + 3] = four.w;
    }
    Vec<T> y = unpack(values), before = unpack(old);
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      y.v[j] = words[j] >= drop.threshold ? y.v[j] * drop.scale : 0.0f;
      if (residual) y.v[j] += before.v[j];
    }
    store(out + c, y);
  }
}

KERNEL(dropout_vec16_f32, kThreads, 4, DROPOUT_PARAMETERS(float)) { dropout_vector(DROPOUT_ARGUMENTS); }

KERNEL(dropout_vec16_bf16, kThreads, 4, DROPOUT_PARAMETERS(bf16)) { dropout_vector(DROPOUT_ARGUMENTS); }

template <class T>
DEVICE void dropout_unit(DROPOUT_PARAMETERS(T), int unit) {
  const Dropout drop = dropout_of(state, site, p);
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  if (residual) residual += row_start(blockIdx.x, residual_pitch);
  out += row_start(blockIdx.x, out_pitch);
  long long index = row_start(blockIdx.x, width);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < columns; c += gridDim.y * kThreads) {
    float y = dropout_keeps(drop, (index + c) / unit) ? to_float(x[c]) * drop.scale : 0.0f;
    out[c] = to<T>(residual ? y + to_float(residual[c]) : y);
  }
}

KERNEL(dropout_unit_f32, kThreads, 4, DROPOUT_PARAMETERS(float), int unit) { dropout_unit(DROPOUT_ARGUMENTS, unit); }

KERNEL(dropout_unit_bf16, kThreads, 4, DROPOUT_PARAMETERS(bf16), int unit) { dropout_unit(DROPOUT_ARGUMENTS, unit); }

// For rows that begin and end at multiples of 16 bytes.
template <class T>
DEVICE void dropout_unit_vector(DROPOUT_PARAMETERS(T), int unit) {
  constexpr int kEach = Vec<T>::kSize;
  const Dropout drop = dropout_of(state, site, p);
  int columns = blockIdx.x + 1 < gridDim.x ? width : last;
  x += row_start(blockIdx.x, x_pitch);
  if (residual) residual += row_start(blockIdx.x, residual_pitch);
  out += row_start(blockIdx.x, out_pitch);
  long long index = row_start(blockIdx.x, width);
  for (int c = (blockIdx.y * kThreads + threadIdx.x) * kEach; c < columns; c += gridDim.y * kThreads * kEach) {
    // These loads are in flight while Philox computes.
    const Raw<T> values = load_raw(x + c);
    Raw<T> old = {};
    if (residual) old = load_raw(residual + c);
    // The unit of the first element, and how many of its elements remain.
    long long number = (index + c) / unit;
    int left = (int)((number + 1) * unit - (index + c));
    bool keeps = dropout_keeps(drop, number);
    Vec<T> y = unpack(values), before = unpack(old);
#pragma unroll
    for (int j = 0; j < kEach; j++) {
      if (left == 0) {
        keeps = dropout_keeps(drop, ++number);
        left = unit;
      }
      left--;
      y.v[j] = keeps ? y.v[j] * drop.scale : 0.0f;
      if (residual) y.v[j] += before.v[j];
    }
    store(out + c, y);
  }
}

KERNEL(dropout_unit_vec16_f32, kThreads, 4, DROPOUT_PARAMETERS(float), int unit) {
  dropout_unit_vector(DROPOUT_ARGUMENTS, unit);
}

KERNEL(dropout_unit_vec16_bf16, kThreads, 4, DROPOUT_PARAMETERS(bf16), int unit) {
  dropout_unit_vector(DROPOUT_ARGUMENTS, unit);
}
