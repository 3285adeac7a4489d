// Coalesce, or de-coalesce fused with interpolation, for all parameters of a model in one launch:
//
//   dst[i, j] = keep base[i, j] + alpha (fill + sum over l, a, b of w[l] A[i, a] B[j, b] src_l[a, b])
//
// with keep = 1 - alpha (Zou, Han, Deng, arXiv 2404.07999, Algorithms 2 to 4). The de-coalesced model never exists in
// memory.
//
// src, dst, base: arenas of parameters; base may be absent (null), or dst itself, which is why neither is __restrict__:
// each element of base is read just before the same thread writes it to dst. `items`: one Item for each parameter of
// dst (src/device/ops/multilevel.rs); blockIdx.y is its number. A, B and the layers w are sparse, in `index` and
// `weight`: a map that starts at p has its row pointers at index[p ..= p + n]; unit i sums the entries index[e],
// weight[e] of e in index[p + i] .. index[p + i + 1]. A map kIdentity has one entry of weight 1 for each unit: itself.
//
// Elements of dst that belong to no item are left alone: arenas are padded between parameters.
//
// Roofline: 4 bytes per element of dst written and, with a base, read; each element of src read once for each unit
// whose group names it (once when coalescing): bound by memory. Maps are a few KB and stay in the first-level cache.
#include "common/kernel.cuh"

constexpr int kThreads = 256;
constexpr unsigned kIdentity = 0xffffffffu;

// Offsets and pitches in elements, in the order of the launch code's Item.
struct Item {
  unsigned dst_offset, rows, cols, dst_pitch;
  unsigned src_rows, src_cols, src_pitch;
  unsigned row_map, col_map;
  unsigned layer_start, layers;
  float fill;
};

// The entries of one unit: those at begin, begin + 1, .. up to before end.
struct Group {
  unsigned map, unit, begin, end;
};

DEVICE Group group_of(const unsigned* index, unsigned map, unsigned unit) {
  if (map == kIdentity) return {map, unit, 0, 1};
  return {map, unit, index[map + unit], index[map + unit + 1]};
}
DEVICE unsigned unit_at(const unsigned* index, const Group& group, unsigned entry) {
  return group.map == kIdentity ? group.unit : index[entry];
}
DEVICE float weight_at(const float* weight, const Group& group, unsigned entry) {
  return group.map == kIdentity ? 1.0f : weight[entry];
}

DEVICE void interpolate(float* dst, const float* base, unsigned long long at, float keep, float alpha, float mapped) {
  dst[at] = base ? fmaf(keep, base[at], alpha * mapped) : alpha * mapped;
}

// The formula as it stands, one element of dst after the other: blocks stride over rows, threads over columns.
KERNEL(multilevel_naive_f32, kThreads, 4, const float* __restrict__ src, float* dst, const float* base,
       const Item* __restrict__ items, const unsigned* __restrict__ index, const float* __restrict__ weight, float keep,
       float alpha) {
  const Item item = items[blockIdx.y];
  for (unsigned i = blockIdx.x; i < item.rows; i += gridDim.x) {
    Group rows = group_of(index, item.row_map, i);
    for (unsigned j = threadIdx.x; j < item.cols; j += kThreads) {
      Group cols = group_of(index, item.col_map, j);
      float mapped = item.fill;
      for (unsigned l = item.layer_start; l < item.layer_start + item.layers; l++) {
        for (unsigned r = rows.begin; r < rows.end; r++) {
          const float* row = src + index[l] + row_start(unit_at(index, rows, r), item.src_pitch);
          float share = weight[l] * weight_at(weight, rows, r);
          for (unsigned c = cols.begin; c < cols.end; c++) {
            mapped = fmaf(share * weight_at(weight, cols, c), row[unit_at(index, cols, c)], mapped);
          }
        }
      }
      interpolate(dst, base, item.dst_offset + row_start(i, item.dst_pitch) + j, keep, alpha, mapped);
    }
  }
}

// What a row of dst needs of src is the same for all its columns: the rows a of all layers l, with weights w[l] A[i,
// a]. The block lists these terms in shared memory once, kTerms at a time (more than a group has, except in general
// dense maps), instead of chasing them through the maps for every column. Neighbouring threads then read neighbouring
// columns of a source row, and B is read once for each column instead of once for each term.
constexpr unsigned kTerms = 256;

KERNEL(multilevel_row_f32, kThreads, 3, const float* __restrict__ src, float* dst, const float* base,
       const Item* __restrict__ items, const unsigned* __restrict__ index, const float* __restrict__ weight, float keep,
       float alpha) {
  SMEM(unsigned long long, starts, [kTerms]);
  SMEM(float, shares, [kTerms]);
  const Item item = items[blockIdx.y];
  for (unsigned i = blockIdx.x; i < item.rows; i += gridDim.x) {
    Group rows = group_of(index, item.row_map, i);
    unsigned members = rows.end - rows.begin, terms = members * item.layers;
    // Every trip count up to here, and of the next two loops, is the same for all threads: they meet at the barriers.
    for (unsigned first = 0; first < item.cols; first += kThreads) {
      unsigned j = first + threadIdx.x;
      Group cols = {kIdentity, 0, 0, 0};
      if (j < item.cols) cols = group_of(index, item.col_map, j);
      float mapped = item.fill;
      for (unsigned tile = 0; tile < terms; tile += kTerms) {
        unsigned count = min(kTerms, terms - tile);
        // All have read the tile before.
        __syncthreads();
        for (unsigned t = threadIdx.x; t < count; t += kThreads) {
          unsigned layer = item.layer_start + (tile + t) / members, r = rows.begin + (tile + t) % members;
          starts[t] = index[layer] + row_start(unit_at(index, rows, r), item.src_pitch);
          shares[t] = weight[layer] * weight_at(weight, rows, r);
        }
        __syncthreads();
        for (unsigned c = cols.begin; c < cols.end; c++) {
          const float* column = src + unit_at(index, cols, c);
          float sum = 0.0f;
          for (unsigned t = 0; t < count; t++) sum = fmaf(shares[t], column[starts[t]], sum);
          mapped = fmaf(weight_at(weight, cols, c), sum, mapped);
        }
      }
      if (j < item.cols) {
        interpolate(dst, base, item.dst_offset + row_start(i, item.dst_pitch) + j, keep, alpha, mapped);
      }
    }
  }
}
