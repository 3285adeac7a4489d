// Shared by the attention kernels: which pairs of query and key are masked, and matrix products of tiles in shared
// memory.
//
// Operands are [B, T, H, D]: the row of (b, t) holds all heads, and rows are `pitch` elements apart. A block works on
// one head (blockIdx.y) of one batch (blockIdx.z). Scores are in units of log2 e, since the hardware's exponential is
// 2^x.
#pragma once

#include "../ptx/cp_async.cuh"
#include "element.cuh"
#include "philox.cuh"
#include "reduce.cuh"

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// The index of the block's head among the heads of all batches.
DEVICE long long head_number() { return static_cast<long long>(blockIdx.z) * gridDim.y + blockIdx.y; }

// The first row of the block's head.
template <class T>
DEVICE T* head_rows(T* x, int pitch, int time, int d) {
  return x + row_start(static_cast<long long>(blockIdx.z) * time, pitch) + row_start(blockIdx.y, d);
}

// ---- Pairs of query and key ---------------------------------------------------------------------------------------

#define PAIR_PARAMETERS                                                                                                \
  const int *__restrict__ key_mask, int mask_pitch, const StepState *__restrict__ state, unsigned site, float p,       \
      int causal, int tq, int tk
#define PAIR_ARGUMENTS key_mask, mask_pitch, state, site, p, causal, tq, tk

// The parameters of a forward pass, and the inputs of a kernel of the backward pass.
#define FORWARD_PARAMETERS(T)                                                                                          \
  const T *__restrict__ q, int q_pitch, const T *__restrict__ k, int k_pitch, const T *__restrict__ v, int v_pitch,    \
      T *__restrict__ out, int out_pitch, float *__restrict__ lse, PAIR_PARAMETERS, float scale, int d
#define FORWARD_ARGUMENTS q, q_pitch, k, k_pitch, v, v_pitch, out, out_pitch, lse, PAIR_ARGUMENTS, scale, d

#define INPUT_PARAMETERS(T)                                                                                            \
  const T *__restrict__ q, int q_pitch, const T *__restrict__ k, int k_pitch, const T *__restrict__ v, int v_pitch,    \
      const T *__restrict__ dout, int dout_pitch, const float *__restrict__ lse, const float *__restrict__ delta,      \
      PAIR_PARAMETERS, float scale, int d
#define INPUT_ARGUMENTS \
  q, q_pitch, k, k_pitch, v, v_pitch, dout, dout_pitch, lse, delta, PAIR_ARGUMENTS, scale, d

struct Pairs {
  int tq, tk;
  // Query i sees keys j <= i + ahead.
  int ahead;
  // The mask of this batch; null masks no key.
  const int* key_mask;
  // Index of the head among the heads of all batches.
  long long head;
  Dropout drop;
};

// The pairs of the block's head.
DEVICE Pairs pairs_of(PAIR_PARAMETERS) {
  const int* mask = key_mask ? key_mask + row_start(blockIdx.z, mask_pitch) : nullptr;
  return {tq, tk, causal ? tk - tq : tk, mask, head_number(), dropout_of(state, site, p)};
}

DEVICE bool key_valid(const Pairs& pairs, int j) {
  return j < pairs.tk && (!pairs.key_mask || pairs.key_mask[j] != 0);
}

DEVICE bool sees(const Pairs& pairs, int i, int j) { return i < pairs.tq && j <= i + pairs.ahead; }

// The number of keys that query i, and those before it, may see.
DEVICE int keys_until(const Pairs& pairs, int i) { return min(pairs.tk, i + pairs.ahead + 1); }

// The index of a probability for dropout.
DEVICE unsigned long long pair_index(const Pairs& pairs, int i, int j) {
  return (pairs.head * pairs.tq + i) * pairs.tk + j;
}

// Whether dropout keeps the four pairs from `index` on.
DEVICE void keeps4(const Pairs& pairs, unsigned long long index, bool (&keeps)[4]) {
  if (pairs.drop.threshold) {
    dropout_keeps4(pairs.drop, index, keeps);
  } else {
    keeps[0] = keeps[1] = keeps[2] = keeps[3] = true;
  }
}

// exp(x - m) must be 0 for x = -infinity, even if the whole row is -infinity; m then counts as 0.
DEVICE float finite(float m) { return m == -INFINITY ? 0.0f : m; }

template <class T>
DEVICE float dot(const T* __restrict__ x, const T* __restrict__ y, int d) {
  float sum = 0.0f;
  for (int e = 0; e < d; e++) sum += to_float(x[e]) * to_float(y[e]);
  return sum;
}

// ---- Tiles in shared memory ---------------------------------------------------------------------------------------
//
// All matrix products share one thread arrangement: a warp is 8 threads across and 4 down. A thread owns 4 rows
// (`thread_row`) and 4 columns of a tile of scores, or every eighth group of 4 columns of a tile as wide as a head.
//
// A tile is [rows][WIDTH]. Within every four rows the groups of 4 columns are permuted (xor). Otherwise the 8 threads
// across, which read the same columns of rows 4, 8, 12 ... apart, would all access the same 4 banks.

constexpr int kColumns = 32;  // Rows of the streamed tiles, which are the columns of the scores.

DEVICE int thread_row() { return threadIdx.x / 8 * 4; }
DEVICE int thread_column() { return threadIdx.x % 8 * 4; }

template <int WIDTH>
DEVICE int at(int row, int column) {
  return row * WIDTH + (((column / 4) ^ (row / 4 % 8)) * 4) + column % 4;
}

DEVICE float4 load4(const float* shared) { return *reinterpret_cast<const float4*>(shared); }

// Starts to copy rows `first` to `first` + ROWS - 1, of `count` rows of d <= WIDTH elements. Elements beyond become
// zeros, which add nothing to a product. `aligned`: d, pitch and addresses are multiples of 4 elements.
template <int ROWS, int WIDTH, int THREADS>
DEVICE void load_rows(float* tile, const float* __restrict__ rows, int pitch, int first, int count, int d,
                      int aligned) {
  if (aligned) {
#pragma unroll 2
    for (int n = threadIdx.x; n < ROWS * WIDTH / 4; n += THREADS) {
      const int row = n / (WIDTH / 4), column = n % (WIDTH / 4) * 4;
      const bool valid = first + row < count && column < d;
      cp_async_16(tile + at<WIDTH>(row, column), rows + (valid ? row_start(first + row, pitch) + column : 0), valid);
    }
  } else {
#pragma unroll 2
    for (int n = threadIdx.x; n < ROWS * WIDTH; n += THREADS) {
      const int row = n / WIDTH, column = n % WIDTH;
      const bool valid = first + row < count && column < d;
      cp_async_4(tile + at<WIDTH>(row, column), rows + (valid ? row_start(first + row, pitch) + column : 0), valid);
    }
  }
}

// The thread's part of a b^T, for a [..][WIDTH] and b [kColumns][WIDTH]: 8 loads of 16 bytes for 64 multiply-adds.
template <int WIDTH>
DEVICE void multiply_rows(float (&z)[4][4], const float* a, const float* b) {
  const int row = thread_row(), column = thread_column();
#pragma unroll
  for (int r = 0; r < 4; r++) {
#pragma unroll
    for (int c = 0; c < 4; c++) z[r][c] = 0.0f;
  }
#pragma unroll 2
  for (int e = 0; e < WIDTH; e += 4) {
    float4 x[4], y[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
      x[r] = load4(a + at<WIDTH>(row + r, e));
      y[r] = load4(b + at<WIDTH>(column + r, e));
    }
#pragma unroll
    for (int r = 0; r < 4; r++) {
#pragma unroll
      for (int c = 0; c < 4; c++) {
        z[r][c] += x[r].x * y[c].x;
        z[r][c] += x[r].y * y[c].y;
        z[r][c] += x[r].z * y[c].z;
        z[r][c] += x[r].w * y[c].w;
      }
    }
  }
}

// Shares the thread's 4 x 4 weights with the threads of the same rows, which are in its warp. A barrier must separate
// this from earlier reads of `weights`.
DEVICE void share_weights(float* weights, const float (&w)[4][4]) {
#pragma unroll
  for (int r = 0; r < 4; r++) {
    float4* row = reinterpret_cast<float4*>(weights + at<kColumns>(thread_row() + r, thread_column()));
    *row = make_float4(w[r][0], w[r][1], w[r][2], w[r][3]);
  }
  __syncwarp();
}

DEVICE void add_scaled(float4& sum, float w, float4 x) {
  sum.x += w * x.x;
  sum.y += w * x.y;
  sum.z += w * x.z;
  sum.w += w * x.w;
}

// Adds the thread's part of weights b, for weights [..][kColumns] and b [kColumns][WIDTH]; `sum[r][g]` holds the four
// columns from thread_column() + 32 g on.
template <int WIDTH>
DEVICE void add_weighted(float4 (&sum)[4][WIDTH / 32], const float* weights, const float* b) {
  const int row = thread_row(), column = thread_column();
#pragma unroll 1
  for (int j = 0; j < kColumns; j += 4) {
    float4 w[4];
#pragma unroll
    for (int r = 0; r < 4; r++) w[r] = load4(weights + at<kColumns>(row + r, j));
#pragma unroll
    for (int g = 0; g < WIDTH / 32; g++) {
      float4 x[4];
#pragma unroll
      for (int n = 0; n < 4; n++) x[n] = load4(b + at<WIDTH>(j + n, column + 32 * g));
#pragma unroll
      for (int r = 0; r < 4; r++) {
        add_scaled(sum[r][g], w[r].x, x[0]);
        add_scaled(sum[r][g], w[r].y, x[1]);
        add_scaled(sum[r][g], w[r].z, x[2]);
        add_scaled(sum[r][g], w[r].w, x[3]);
      }
    }
  }
}

// Stores the thread's columns of one row of a head, times `scale`.
template <int WIDTH>
DEVICE void store_row(float* row, const float4 (&sum)[WIDTH / 32], float scale, int d) {
#pragma unroll
  for (int g = 0; g < WIDTH / 32; g++) {
    const int e = thread_column() + 32 * g;
    if (e < d) row[e] = sum[g].x * scale;
    if (e + 1 < d) row[e + 1] = sum[g].y * scale;
    if (e + 2 < d) row[e + 2] = sum[g].z * scale;
    if (e + 3 < d) row[e + 3] = sum[g].w * scale;
  }
}
