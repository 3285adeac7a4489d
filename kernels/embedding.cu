// Look-up: out[b, t] (+)= table[ids[b, t]] + positions[t], and its gradients
//   dtable[ids[b, t]] (+)= dout[b, t] in the order of (b, t),   dpositions[t] (+)= sum over b of dout[b, t].
//
// ids: [B, T], seen as `tokens` = B T in a row; table: [V, C]; positions: [P, C], P >= T; out and dout: [B T, C]; all
// in rows of their own pitch. An id outside the table gives NaN forward, which no loss survives unnoticed, and nothing
// backward: a device has no other way to complain. The look-ups of the id `padding` give no gradient (-1: every id
// does).
//
// Roofline: forward 8 bytes per element of out, 4 more for the table's positions where they miss the cache; backward 4
// bytes per element of dout and 8 per element of a row that is touched: bound by memory, no arithmetic to speak of.
#include "common/reduce.cuh"

constexpr int kThreads = 128;

// A row of blocks (blockIdx.y) for each token.
KERNEL(embedding_f32, kThreads, 8, const int* __restrict__ ids, const float* __restrict__ table,
       const float* __restrict__ positions, float* __restrict__ out, int vocab, int time, int width, int table_pitch,
       int positions_pitch, int out_pitch, int accumulate) {
  int id = ids[blockIdx.x];
  bool inside = id >= 0 && id < vocab;
  table += row_start(inside ? id : 0, table_pitch);
  if (positions) positions += row_start(blockIdx.x % time, positions_pitch);
  out += row_start(blockIdx.x, out_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) {
    float value = inside ? table[c] : __uint_as_float(0x7fc00000u);
    if (accumulate) value = out[c] + value;
    if (positions) value += positions[c];
    out[c] = value;
  }
}

// One thread for each element of dtable, which looks through all ids: V C B T comparisons, for small vocabularies only.
KERNEL(embedding_backward_naive_f32, kThreads, 8, const int* __restrict__ ids, const float* __restrict__ dout,
       float* __restrict__ dtable, int tokens, int width, int dout_pitch, int table_pitch, int padding,
       int accumulate) {
  int row = blockIdx.x;
  dtable += row_start(row, table_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) {
    float sum = accumulate ? dtable[c] : 0.0f;
    for (int n = 0; n < tokens; n++) {
      if (ids[n] == row && row != padding) sum += dout[row_start(n, dout_pitch) + c];
    }
    dtable[c] = sum;
  }
}

KERNEL(embedding_clear_f32, kThreads, 8, float* __restrict__ dtable, int width, int table_pitch) {
  dtable += row_start(blockIdx.x, table_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) dtable[c] = 0.0f;
}

// Without atomics, and yet with work for the tokens there are rather than for the vocabulary: a row of blocks for each
// token n. The first token of an id owns the id's row of dtable; blocks of later ones find that out and end. The owner
// adds up the gradients of all tokens of its id, in their order, in registers, and writes the row once: 128 threads x 8
// columns in each block (blockIdx.y).
//
// Every block reads ids before or behind its own: B T (B T) / 2 words in all, 128 MB for 8192 tokens, but from the
// second-level cache. A very frequent token keeps one block busy for as long as its gradients take to arrive one after
// the other.
constexpr int kEach = 8;
constexpr int kWarps = kThreads / 32;

KERNEL(embedding_backward_owner_f32, kThreads, 4, const int* __restrict__ ids, const float* __restrict__ dout,
       float* __restrict__ dtable, int tokens, int vocab, int width, int dout_pitch, int table_pitch, int padding) {
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

  // All threads agree on `owner`, and on the number of tiles, so that all meet at the barriers or none does.
  if (owner) {
    int first = blockIdx.y * (kEach * kThreads) + threadIdx.x;
    float sums[kEach];
    dtable += row_start(id, table_pitch) + first;
#pragma unroll
    for (int k = 0; k < kEach; k++) sums[k] = first + k * kThreads < width ? dtable[k * kThreads] : 0.0f;

    for (int tile = token; tile < tokens; tile += kThreads) {
      int n = tile + threadIdx.x;
      votes = __ballot_sync(kAllLanes, n < tokens && ids[n] == id);
      // Words of the tile before may still be read.
      __syncthreads();
      if (threadIdx.x % 32 == 0) found[warp] = votes;
      __syncthreads();
      for (int w = 0; w < kWarps; w++) {
        unsigned bits = found[w];
        for (int l = 0; bits != 0; l++, bits >>= 1) {
          if (bits & 1) {
            const float* row = dout + row_start(tile + 32 * w + l, dout_pitch) + first;
#pragma unroll
            for (int k = 0; k < kEach; k++) {
              if (first + k * kThreads < width) sums[k] += row[k * kThreads];
            }
          }
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kEach; k++) {
      if (first + k * kThreads < width) dtable[k * kThreads] = sums[k];
    }
  }
}

// A row of blocks for each of the P positions; those from T on have no tokens.
KERNEL(embedding_positions_f32, kThreads, 8, const float* __restrict__ dout, float* __restrict__ dpositions, int batch,
       int time, int width, int dout_pitch, int positions_pitch, int accumulate) {
  int t = blockIdx.x;
  dpositions += row_start(t, positions_pitch);
  for (int c = blockIdx.y * kThreads + threadIdx.x; c < width; c += gridDim.y * kThreads) {
    float sum = accumulate ? dpositions[c] : 0.0f;
    if (t < time) {
      for (int b = 0; b < batch; b++) sum += dout[row_start(row_start(b, time) + t, dout_pitch) + c];
    }
    dpositions[c] = sum;
  }
}
