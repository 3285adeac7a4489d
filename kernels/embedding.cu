// Embedding look-up: out[b, t] (+)= table[ids[b, t]] + positions[t], and its gradients
//   dtable[ids[b, t]] (+)= dout[b, t] in the order of (b, t),   dpositions[t] (+)= sum over b of dout[b, t].
//
// ids: [B, T], as a row of `tokens` = B T; table: [V, C]; positions: [P, C], P >= T; out and dout: [B T, C]; all in
// rows of their own pitch. table, positions, out and dout are all float or all bf16. dpositions is always float; dtable
// too, unless the table holds activations: then it has the type of dout. Sums are float, and rounded once. An id
// outside the table gives NaN in the forward pass, which makes the loss NaN, and nothing in the backward pass, since a
// device has no other way to report an error. Look-ups of the id `padding` give no gradient (-1: every id does).
//
// Roofline: forward 8 bytes per element of out (4 in bf16), plus half of that for the positions where they miss the
// cache; backward 4 bytes (2) per element of dout and 8 per element of a row that is touched: memory-bound, with hardly
// any arithmetic. `vector` gives each token a warp with 16-byte accesses, two of each operand in flight: the 32 warps
// of an SM have 64 KB in flight, where 16 KB cover the latency of an H100's memory.
#include "common/reduce.cuh"
#include "common/vector.cuh"

constexpr int kThreads = 128;

#define EMBEDDING_PARAMETERS(T) \
  const int* __restrict__ ids, const T* __restrict__ table, const T* __restrict__ positions, T* __restrict__ out, \
      int tokens, int vocab, int time, int width, int table_pitch, int positions_pitch, int out_pitch, int accumulate
#define EMBEDDING_ARGUMENTS \
  ids, table, positions, out, tokens, vocab, time, width, table_pitch, positions_pitch, out_pitch, accumulate

// A row of blocks (blockIdx.y) per token.
template <class T>
DEVICE void embedding(EMBEDDING_PARAMETERS(T)) {
  int id = ids[blockIdx.x];
  bool inside = id >= 0 && id < vocab;
  table += row_start(inside ? id : 0, table_pitch);
  if (positions) positions += row_start(blockIdx.x % time, positions_pitch);
  out += row_start(blockIdx.x, out_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) {
    float value = inside ? to_float(table[c]) : __uint_as_float(0x7fc00000u);
    if (accumulate) value = to_float(out[c]) + value;
    if (positions) value += to_float(positions[c]);
    out[c] = to<T>(value);
  }
}

KERNEL(embedding_f32, kThreads, 8, EMBEDDING_PARAMETERS(float)) { embedding(EMBEDDING_ARGUMENTS); }

KERNEL(embedding_bf16, kThreads, 8, EMBEDDING_PARAMETERS(bf16)) { embedding(EMBEDDING_ARGUMENTS); }

// Accesses to each operand that a lane issues before it waits for the first.
constexpr int kVectors = 2;

// One warp per token; rows begin and end at multiples of 16 bytes.
template <class T>
DEVICE void embedding_vector(EMBEDDING_PARAMETERS(T)) {
  constexpr int kEach = Vec<T>::kSize, kStride = 32 * kEach;
  int token = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  if (token >= tokens) return;
  int id = ids[token];
  bool inside = id >= 0 && id < vocab;
  table += row_start(inside ? id : 0, table_pitch);
  if (positions) positions += row_start(token % time, positions_pitch);
  out += row_start(token, out_pitch);
  const T* old = out;
  for (int first = threadIdx.x % 32 * kEach; first < width; first += kVectors * kStride) {
    Raw<T> found[kVectors], before[kVectors], place[kVectors];
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < width) {
        found[k] = load_raw(table + c);
        if (accumulate) before[k] = load_raw(old + c);
        if (positions) place[k] = load_raw(positions + c);
      }
    }
#pragma unroll
    for (int k = 0; k < kVectors; k++) {
      int c = first + k * kStride;
      if (c < width) {
        Vec<T> value = unpack(found[k]), sum = unpack(before[k]), position = unpack(place[k]);
#pragma unroll
        for (int j = 0; j < kEach; j++) {
          if (!inside) value.v[j] = __uint_as_float(0x7fc00000u);
          if (accumulate) value.v[j] = sum.v[j] + value.v[j];
          if (positions) value.v[j] += position.v[j];
        }
        store(out + c, value);
      }
    }
  }
}

KERNEL(embedding_vec16_f32, kThreads, 8, EMBEDDING_PARAMETERS(float)) { embedding_vector(EMBEDDING_ARGUMENTS); }

KERNEL(embedding_vec16_bf16, kThreads, 8, EMBEDDING_PARAMETERS(bf16)) { embedding_vector(EMBEDDING_ARGUMENTS); }

// One thread per element of dtable, which searches all ids: V C B T comparisons, for small vocabularies only.
#define NAIVE_PARAMETERS(T, Out) \
  const int* __restrict__ ids, const T* __restrict__ dout, Out* __restrict__ dtable, int tokens, int width, \
      int dout_pitch, int table_pitch, int padding, int accumulate

template <class T, class Out>
DEVICE void embedding_backward_naive(NAIVE_PARAMETERS(T, Out)) {
  int row = blockIdx.x;
  dtable += row_start(row, table_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) {
    float sum = accumulate ? to_float(dtable[c]) : 0.0f;
    for (int n = 0; n < tokens; n++) {
      if (ids[n] == row && row != padding) sum += to_float(dout[row_start(n, dout_pitch) + c]);
    }
    dtable[c] = to<Out>(sum);
  }
}

KERNEL(embedding_backward_naive_f32, kThreads, 8, NAIVE_PARAMETERS(float, float)) {
  embedding_backward_naive(ids, dout, dtable, tokens, width, dout_pitch, table_pitch, padding, accumulate);
}

KERNEL(embedding_backward_naive_bf16, kThreads, 8, NAIVE_PARAMETERS(bf16, bf16)) {
  embedding_backward_naive(ids, dout, dtable, tokens, width, dout_pitch, table_pitch, padding, accumulate);
}

KERNEL(embedding_backward_naive_bf16_f32, kThreads, 8, NAIVE_PARAMETERS(bf16, float)) {
  embedding_backward_naive(ids, dout, dtable, tokens, width, dout_pitch, table_pitch, padding, accumulate);
}

template <class Out>
DEVICE void embedding_clear(Out* __restrict__ dtable, int width, int table_pitch) {
  dtable += row_start(blockIdx.x, table_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) dtable[c] = to<Out>(0.0f);
}

KERNEL(embedding_clear_f32, kThreads, 8, float* __restrict__ dtable, int width, int table_pitch) {
  embedding_clear(dtable, width, table_pitch);
}

KERNEL(embedding_clear_bf16, kThreads, 8, bf16* __restrict__ dtable, int width, int table_pitch) {
  embedding_clear(dtable, width, table_pitch);
}

// Without atomics, and yet with work proportional to the tokens rather than to the vocabulary: a row of blocks for each
// token n. The first token with an id owns the id's row of dtable; the blocks of later tokens with that id detect this
// and exit. The owner adds up the gradients of all tokens with its id, in their order, in registers, and writes the row
// once: 128 threads x 8 columns in each block (blockIdx.y).
//
// Every block reads the ids before or after its own: B T (B T) / 2 words in all, 128 MB for 8192 tokens, but from L2. A
// very frequent token keeps one block busy for as long as it takes to read all its gradients one after the other.
constexpr int kEach = 8;
constexpr int kWarps = kThreads / 32;

#define OWNER_PARAMETERS(T, Out) \
  const int* __restrict__ ids, const T* __restrict__ dout, Out* __restrict__ dtable, int tokens, int vocab, \
      int width, int dout_pitch, int table_pitch, int padding

template <class T, class Out>
DEVICE void embedding_backward_owner(OWNER_PARAMETERS(T, Out)) {
  // Bit l of word w: thread 32 w + l has found the id.
  SMEM(unsigned, found, [kWarps]);
  int token = blockIdx.x, id = ids[token], warp = threadIdx.x / 32;

  bool earlier = false;
  for (int n = threadIdx.x; n < token && !earlier; n += kThreads) earlier = ids[n] == id;
  unsigned votes = __ballot_sync(kAllLanes, earlier);
  if (threadIdx.x % 32 == 0) found[warp] = votes;
  __syncthreads();
  bool owner = id >= 0 && id < vocab && id != padding;
  for (int w = 0; w < kWarps; w++) owner = owner && found[w] == 0;

  // All threads agree on `owner`, and on the number of tiles, so either all of them reach the barriers or none does.
  if (owner) {
    int first = blockIdx.y * (kEach * kThreads) + threadIdx.x;
    float sums[kEach];
    dtable += row_start(id, table_pitch) + first;
#pragma unroll
    for (int k = 0; k < kEach; k++) sums[k] = first + k * kThreads < width ? to_float(dtable[k * kThreads]) : 0.0f;

    for (int tile = token; tile < tokens; tile += kThreads) {
      int n = tile + threadIdx.x;
      votes = __ballot_sync(kAllLanes, n < tokens && ids[n] == id);
      // The words of the previous tile may still be in use.
      __syncthreads();
      if (threadIdx.x % 32 == 0) found[warp] = votes;
      __syncthreads();
      for (int w = 0; w < kWarps; w++) {
        unsigned bits = found[w];
        for (int l = 0; bits != 0; l++, bits >>= 1) {
          if (bits & 1) {
            const T* row = dout + row_start(tile + 32 * w + l, dout_pitch) + first;
#pragma unroll
            for (int k = 0; k < kEach; k++) {
              if (first + k * kThreads < width) sums[k] += to_float(row[k * kThreads]);
            }
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kEach; k++) {
      if (first + k * kThreads < width) dtable[k * kThreads] = to<Out>(sums[k]);
    }
  }
}

KERNEL(embedding_backward_owner_f32, kThreads, 4, OWNER_PARAMETERS(float, float)) {
  embedding_backward_owner(ids, dout, dtable, tokens, vocab, width, dout_pitch, table_pitch, padding);
}

KERNEL(embedding_backward_owner_bf16, kThreads, 4, OWNER_PARAMETERS(bf16, bf16)) {
  embedding_backward_owner(ids, dout, dtable, tokens, vocab, width, dout_pitch, table_pitch, padding);
}

KERNEL(embedding_backward_owner_bf16_f32, kThreads, 4, OWNER_PARAMETERS(bf16, float)) {
  embedding_backward_owner(ids, dout, dtable, tokens, vocab, width, dout_pitch, table_pitch, padding);
}

// A row of blocks for each of the P positions; positions from T on have no tokens.
#define POSITIONS_PARAMETERS(T) \
  const T* __restrict__ dout, float* __restrict__ dpositions, int batch, int time, int width, int dout_pitch, \
      int positions_pitch, int accumulate

template <class T>
DEVICE void embedding_positions(POSITIONS_PARAMETERS(T)) {
  int t = blockIdx.x;
  dpositions += row_start(t, positions_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) {
    float sum = accumulate ? dpositions[c] : 0.0f;
    if (t < time) {
      for (int b = 0; b < batch; b++) sum += to_float(dout[row_start(row_start(b, time) + t, dout_pitch) + c]);
    }
    dpositions[c] = sum;
  }
}

KERNEL(embedding_positions_f32, kThreads, 8, POSITIONS_PARAMETERS(float)) {
  embedding_positions(dout, dpositions, batch, time, width, dout_pitch, positions_pitch, accumulate);
}

KERNEL(embedding_positions_bf16, kThreads, 8, POSITIONS_PARAMETERS(bf16)) {
  embedding_positions(dout, dpositions, batch, time, width, dout_pitch, positions_pitch, accumulate);
}
