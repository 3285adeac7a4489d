// Matrix products in f32, and in bf16 by the slowest kernel: out (+)= epilogue(op(a) op(b) + bias) + residual.
//
// op(a) [M, K], op(b) [K, N], out, pre, value, residual [M, N], bias [N]. There may be a batch of products (gridDim.z):
// each operand except the bias then consists of that many matrices, which follow one another as blocks of rows.
//
// The forward pass of a linear layer and the gradients of its input and its weight are all this operation, with
// different transposes: y = x W, dx = dy W^T, dW = x^T dy. Rows are `pitch` elements apart and begin anywhere; a
// transposed operand is read in place.
//
// Roofline. A product takes 2 M N K FLOPs and moves at least 4 (M K + K N + M N) bytes. At M = N = K = 1024 that is 170
// FLOPs per byte, where an A100 (19.5 TFLOP/s in f32, 1.6 TB/s) balances at 12. Whether a kernel gets there is a
// question of reuse: how many multiply-adds follow each word that is loaded, from memory and from shared memory.
//
//   naive    A thread computes one output: 2 loads per multiply-add, so it depends on the caches.
//   shared   A block computes 32 x 32 outputs from tiles in shared memory. A word from memory serves 32 multiply-adds,
//            but each of those still takes 2 loads from shared memory, so the load units are the bottleneck.
//   tiled    A thread computes 4 x 4 outputs in registers: 2 loads of 16 bytes per 16 multiply-adds. A block computes
//            64 x 64 outputs, and copies the next tiles into shared memory while it computes with the current ones.
#include "common/bands.cuh"
#include "common/epilogue.cuh"
#include "ptx/cp_async.cuh"

#define LINEAR_PARAMETERS(T, Out)                                                                                \
  const T *__restrict__ a, int a_pitch, const T *__restrict__ b, int b_pitch, Out *out, int out_pitch,           \
      const T *bias, int kind, int activation, T *pre, int pre_pitch, T *value, int value_pitch,                 \
      const T *residual, int residual_pitch, int accumulate, int m, int n, int k
#define LINEAR_EPILOGUE \
  { out, out_pitch, bias, kind, activation, pre, pre_pitch, value, value_pitch, residual, residual_pitch, accumulate }

// ---- naive --------------------------------------------------------------------------------------------------------

// Neighbouring threads compute neighbouring columns: they share the element of a and read contiguous elements of b (if
// b is not transposed; otherwise each thread reads a row of its own). In bf16 it handles operands that are not aligned
// for tensor cores.
template <class T, class Out>
DEVICE void linear_naive(const T* __restrict__ a, int a_pitch, const T* __restrict__ b, int b_pitch,
                         const Epilogue<T, Out>& epilogue, int m, int n, int k, int ta, int tb) {
  const int tiles_n = (n + 31) / 32;
  const int i = blockIdx.x / tiles_n * 8 + threadIdx.x / 32, j = blockIdx.x % tiles_n * 32 + threadIdx.x % 32;
  if (i >= m || j >= n) return;
  const int a_row = ta ? 1 : a_pitch, a_step = ta ? a_pitch : 1;
  const int b_step = tb ? 1 : b_pitch, b_column = tb ? b_pitch : 1;
  const T* left = a + matrix_start(ta ? k : m, a_pitch) + row_start(i, a_row);
  const T* right = b + matrix_start(tb ? n : k, b_pitch) + row_start(j, b_column);
  float z = 0.0f;
  for (int l = 0; l < k; l++) z += to_float(left[row_start(l, a_step)]) * to_float(right[row_start(l, b_step)]);
  write_out(in_batch(epilogue, m), i, j, z);
}

KERNEL(linear_naive_f32, 256, 1, LINEAR_PARAMETERS(float, float), int ta, int tb) {
  linear_naive<float, float>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k, ta, tb);
}

KERNEL(linear_naive_bf16, 256, 1, LINEAR_PARAMETERS(bf16, bf16), int ta, int tb) {
  linear_naive<bf16, bf16>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k, ta, tb);
}

KERNEL(linear_naive_bf16_f32, 256, 1, LINEAR_PARAMETERS(bf16, float), int ta, int tb) {
  linear_naive<bf16, float>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k, ta, tb);
}

// ---- shared -------------------------------------------------------------------------------------------------------

// Loads one element of a 32 x 32 tile of op(x). Neighbouring threads follow the rows in memory, which are the columns
// of the tile if the matrix is transposed; the padding to 33 columns keeps those writes in different banks.
DEVICE void load_square(float (&tile)[32][33], const float* __restrict__ x, int pitch, bool transposed, int row,
                        int column, int rows, int columns) {
  const int fast = threadIdx.x % 32, slow = threadIdx.x / 32;
  const int r = transposed ? fast : slow, c = transposed ? slow : fast;
  const bool valid = row + r < rows && column + c < columns;
  const long long at = transposed ? row_start(column + c, pitch) + row + r : row_start(row + r, pitch) + column + c;
  tile[r][c] = valid ? x[at] : 0.0f;
}

KERNEL(linear_shared_f32, 1024, 1, LINEAR_PARAMETERS(float, float), int ta, int tb) {
  SMEM(float, tile_a, [32][33]);
  SMEM(float, tile_b, [32][33]);
  const int tiles_n = (n + 31) / 32;
  const int row = blockIdx.x / tiles_n * 32, column = blockIdx.x % tiles_n * 32;
  const int r = threadIdx.x / 32, c = threadIdx.x % 32;
  a += matrix_start(ta ? k : m, a_pitch);
  b += matrix_start(tb ? n : k, b_pitch);
  float z = 0.0f;
  for (int l = 0; l < k; l += 32) {
    load_square(tile_a, a, a_pitch, ta, row, l, m, k);
    load_square(tile_b, b, b_pitch, tb, l, column, k, n);
    __syncthreads();
#pragma unroll
    for (int step = 0; step < 32; step++) z += tile_a[r][step] * tile_b[step][c];
    __syncthreads();
  }
  const Epilogue<float, float> epilogue = LINEAR_EPILOGUE;
  if (row + r < m && column + c < n) write_out(in_batch(epilogue, m), row + r, column + c, z);
}

// ---- tiled --------------------------------------------------------------------------------------------------------

constexpr int kBlock = 64;  // Rows and columns of a block's outputs.
constexpr int kStep = 16;   // Steps of K at a time.
// The pitch of a tile: a multiple of 4 for loads of 16 bytes, and 4 more than a multiple of the 32 banks.
constexpr int kPitch = 68;
static_assert(4 * kStep == kBlock, "the outputs must fit in the four tiles");
constexpr int kThreads = 256;

// Both operands are stored as [K step][64] in shared memory, so that a thread finds the 4 rows of a, and the 4 columns
// of b, for the same l side by side. An operand whose rows run along K (a, or b transposed) is transposed by the copy:
// a warp copies 8 words of each of 4 rows, which are whole sectors of 32 bytes in memory and 32 different banks (4 l +
// i) here.
template <bool ALONG_K>
DEVICE void load_tile(float (&tile)[kStep][kPitch], const float* __restrict__ x, int pitch, int first, int count,
                      int step, int k) {
  constexpr int kCopies = kBlock * kStep / kThreads;
#pragma unroll
  for (int r = 0; r < kCopies; r++) {
    const int t = threadIdx.x;
    const int l = ALONG_K ? t % 8 + r % 2 * 8 : t / kBlock + r * (kThreads / kBlock);
    const int i = ALONG_K ? t / 8 + r / 2 * (kThreads / 8) : t % kBlock;
    const bool valid = first + i < count && step + l < k;
    const long long at = ALONG_K ? row_start(first + i, pitch) + step + l : row_start(step + l, pitch) + first + i;
    cp_async_4(&tile[l][i], x + (valid ? at : 0), valid);
  }
}

template <bool TA, bool TB>
DEVICE void linear_tiled(const float* __restrict__ a, int a_pitch, const float* __restrict__ b, int b_pitch,
                         const Epilogue<float, float>& epilogue, int m, int n, int k) {
  // Two tiles of a, two of b; at the end all of it holds the block's outputs.
  SMEM(float, tiles, [4][kStep][kPitch]);
  float(&tile_a)[2][kStep][kPitch] = *reinterpret_cast<float(*)[2][kStep][kPitch]>(&tiles[0]);
  float(&tile_b)[2][kStep][kPitch] = *reinterpret_cast<float(*)[2][kStep][kPitch]>(&tiles[2]);
  int row, column;
  tile_position<kBlock, kBlock>(blockIdx.x, m, n, row, column);
  a += matrix_start(TA ? k : m, a_pitch);
  b += matrix_start(TB ? n : k, b_pitch);
  // The 8 warps are arranged 4 x 2 over the outputs, and a warp's lanes 4 x 8. So its loads from a tile access 4 or 8
  // different groups of 16 bytes, each bank at most once; the other lanes receive the same data.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int i = (warp / 2 * 4 + lane / 8) * 4, j = (warp % 2 * 8 + lane % 8) * 4;

  float z[4][4] = {};
  load_tile<!TA>(tile_a[0], a, a_pitch, row, m, 0, k);
  load_tile<TB>(tile_b[0], b, b_pitch, column, n, 0, k);
  cp_async_commit();
  for (int step = 0, stage = 0; step < k; step += kStep, stage ^= 1) {
    // One barrier per step: after it these tiles are visible to all threads, and no thread still reads the other pair.
    cp_async_wait<0>();
    __syncthreads();
    if (step + kStep < k) {
      load_tile<!TA>(tile_a[stage ^ 1], a, a_pitch, row, m, step + kStep, k);
      load_tile<TB>(tile_b[stage ^ 1], b, b_pitch, column, n, step + kStep, k);
      cp_async_commit();
    }
#pragma unroll
    for (int l = 0; l < kStep; l++) {
      const float4 left = *reinterpret_cast<const float4*>(&tile_a[stage][l][i]);
      const float4 right = *reinterpret_cast<const float4*>(&tile_b[stage][l][j]);
      const float rows[4] = {left.x, left.y, left.z, left.w};
      const float columns[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int r = 0; r < 4; r++) {
#pragma unroll
        for (int c = 0; c < 4; c++) z[r][c] += rows[r] * columns[c];
      }
    }
  }

  // The outputs go through shared memory, so that neighbouring threads write neighbouring columns, and so that the code
  // of the epilogue with its exponentials is there once and not for each of the 16 registers.
  float* outputs = &tiles[0][0][0];
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 4; r++) {
    *reinterpret_cast<float4*>(outputs + (i + r) * kPitch + j) = make_float4(z[r][0], z[r][1], z[r][2], z[r][3]);
  }
  __syncthreads();
  const Epilogue<float, float> batch_epilogue = in_batch(epilogue, m);
#pragma unroll 1
  for (int e = threadIdx.x; e < kBlock * kBlock; e += kThreads) {
    const int r = e / kBlock, c = e % kBlock;
    if (row + r < m && column + c < n) write_out(batch_epilogue, row + r, column + c, outputs[r * kPitch + c]);
  }
}

KERNEL(linear_tiled_nn_f32, 256, 3, LINEAR_PARAMETERS(float, float)) {
  linear_tiled<false, false>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k);
}

KERNEL(linear_tiled_nt_f32, 256, 3, LINEAR_PARAMETERS(float, float)) {
  linear_tiled<false, true>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k);
}

KERNEL(linear_tiled_tn_f32, 256, 3, LINEAR_PARAMETERS(float, float)) {
  linear_tiled<true, false>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k);
}

KERNEL(linear_tiled_tt_f32, 256, 3, LINEAR_PARAMETERS(float, float)) {
  linear_tiled<true, true>(a, a_pitch, b, b_pitch, LINEAR_EPILOGUE, m, n, k);
}
