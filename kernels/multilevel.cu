// Coalesce, or de-coalesce fused with interpolation, for all parameters of a model in one launch:
//
//   dst[i, j] = keep base[i, j] + alpha (fill + sum over l, a, b of w[l] A[i, a] B[j, b] src_l[a, b])
//
// with keep = 1 - alpha (Zou, Han, Deng, arXiv 2404.07999, Algorithms 2 to 4). The de-coalesced model is never
// materialised.
//
// src, dst, base: arenas of parameters. base may be absent (null), or dst itself, which is why neither is __restrict__:
// each element of base is read just before the same thread writes it to dst. `items`: one Item for each parameter of
// dst (src/device/ops/multilevel.rs); blockIdx.y is its number. A, B and the layers w are sparse, in `index` and
// `weight`: a map that starts at p has its row pointers at index[p ..= p + n]; unit i sums the entries index[e],
// weight[e] of e in index[p + i] .. index[p + i + 1]. With the map kIdentity each unit has one entry of weight 1:
// itself.
//
// Elements of dst that belong to no item are not written: arenas are padded between parameters.
//
// Roofline: 4 bytes per element of dst written and, with a base, read; each element of src is read once for each unit
// whose group contains it (once when coalescing): memory-bound. Maps are a few KB and stay in L1. An H100 copies 2.99
// TB/s, which is 23 bytes per nanosecond and SM, with a latency of 600 ns or more: each SM needs 16 KB in flight at all
// times.
//
// `row` reached 22 to 28 % of that there. The likely reasons, judging from the code: for each element of dst it loads
// two row pointers, an entry and a weight of the column map, and then 4 bytes. So (1) most of its accesses move no
// parameters, and L1, which serves 128 bytes per clock, is busy with them; (2) each access depends on the one before:
// pointer, entry, source, base, with one or two in flight per thread, and two barriers before them; (3) with a row of
// 384 columns, half of the 256 threads are idle in the second pass; (4) every parameter gets the same number of blocks,
// chosen for the mean size, so that the embeddings, a third of GPT-Base, are left to 256 blocks.
//
// `vector` divides all parameters into tiles with about equal work, distributes them over the warps of persistent
// blocks, and looks at maps once per tile; see there.
#include "common/vector.cuh"

constexpr int kThreads = 256;
constexpr unsigned kIdentity = 0xffffffffu;

// Offsets and pitches are in elements; the order is that of Item in the launch code.
struct Item {
  unsigned dst_offset, rows, cols, dst_pitch;
  unsigned src_rows, src_cols, src_pitch;
  unsigned row_map, col_map;
  unsigned layer_start, layers;
  float fill;
};

// The entries of one unit: `begin` to `end` - 1.
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

// The sum in the formula, for one element.
DEVICE float mapped_at(const float* src, const unsigned* index, const float* weight, const Item& item,
                       const Group& rows, const Group& cols) {
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
  return mapped;
}

// The formula as written, one element of dst after the other: blocks stride over rows, threads over columns.
KERNEL(multilevel_naive_f32, kThreads, 4, const float* __restrict__ src, float* dst, const float* base,
       const Item* __restrict__ items, const unsigned* __restrict__ index, const float* __restrict__ weight, float keep,
       float alpha) {
  const Item item = items[blockIdx.y];
  for (unsigned i = blockIdx.x; i < item.rows; i += gridDim.x) {
    Group rows = group_of(index, item.row_map, i);
    for (unsigned j = threadIdx.x; j < item.cols; j += kThreads) {
      Group cols = group_of(index, item.col_map, j);
      float mapped = mapped_at(src, index, weight, item, rows, cols);
      interpolate(dst, base, item.dst_offset + row_start(i, item.dst_pitch) + j, keep, alpha, mapped);
    }
  }
}

// All columns of a row of dst need the same rows of src: rows a of all layers l, with weights w[l] A[i, a]. The block
// lists these terms in shared memory once, kTerms at a time (more than a group has, except in general dense maps),
// instead of following the maps for every column. Neighbouring threads then read neighbouring columns of a source row,
// and B is read once per column instead of once per term.
constexpr unsigned kTerms = 256;

KERNEL(multilevel_block_per_row_f32, kThreads, 3, const float* __restrict__ src, float* dst, const float* base,
       const Item* __restrict__ items, const unsigned* __restrict__ index, const float* __restrict__ weight, float keep,
       float alpha) {
  SMEM(unsigned long long, starts, [kTerms]);
  SMEM(float, shares, [kTerms]);
  const Item item = items[blockIdx.y];
  for (unsigned i = blockIdx.x; i < item.rows; i += gridDim.x) {
    Group rows = group_of(index, item.row_map, i);
    unsigned members = rows.end - rows.begin, terms = members * item.layers;
    // All trip counts up to here, and of the next two loops, are the same for all threads, so all of them reach the
    // barriers.
    for (unsigned first = 0; first < item.cols; first += kThreads) {
      unsigned j = first + threadIdx.x;
      Group cols = {kIdentity, 0, 0, 0};
      if (j < item.cols) cols = group_of(index, item.col_map, j);
      float mapped = item.fill;
      for (unsigned tile = 0; tile < terms; tile += kTerms) {
        unsigned count = min(kTerms, terms - tile);
        // All threads have read the previous tile.
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

// ---- 16 bytes at a time ---------------------------------------------------------------------------------------------
//
// Maps between models are runs: heads are mapped as a whole, so four neighbouring units of an axis have groups of the
// same size whose members are neighbours too, and parameters and their rows begin at multiples of 16 bytes. A warp
// takes a tile of 128 columns, four per lane, and up to kHeight rows, fewer where a row of dst is the sum of several
// rows of src:
//
//   once per tile      each lane looks up its four columns: the positions and weights of their members, in registers
//   once per 32 terms  each lane looks up one term, a row of src in a row of dst, and shares it with the others by
//                      shuffles
//   for each term      16 bytes per member, with some eight of these loads and of base in flight before the first is
//                      used: the 24 warps of an SM have up to 96 KB in flight; there are no divisions
//   for each row       16 bytes of dst
//
// A warp accesses 512 contiguous bytes, whole lines, and its neighbours in the block access those next to them. A tile
// has some 16 terms, and GPT-Base has 60,000 tiles, so persistent blocks that take every n-th tile finish together.
// Only base and dst are marked as evict-first: de-coalescing reads each element of src up to eight times, within a
// short time.
//
// Where a tile does not meet these conditions (another map, misaligned rows, groups of more than kMembers, more than 32
// terms per row, the end of a row of 4 n + 1) its warp processes it element by element.
//
// The sum over members comes before the sum over terms; the order depends on the maps alone.

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr unsigned kWarps = kThreads / 32;
constexpr unsigned kTileColumns = 4 * 32;
constexpr unsigned kHeight = 16;
constexpr unsigned kMembers = 4;
// The maximum number of parameters, and how many of them a thread counts the tiles of.
constexpr unsigned kItems = 1024;
constexpr unsigned kItemsPerThread = kItems / kThreads;

struct Operands {
  const float* src;
  float* dst;
  const float* base;
  const unsigned* index;
  const float* weight;
  float keep, alpha;
};

// Columns j to j + 3 of dst, each with `members` members: those of column j + k are the entries from begin + members k
// on.
struct Columns {
  unsigned j, begin, members;
};

// Rows first to first + rows - 1 of dst, each the sum of `terms` rows of src: `members` of each layer.
struct Rows {
  unsigned first, rows, members, terms;
};

// Whether columns j to j + 3 are a run, or beyond the row. The loops are not unrolled: many loads side by side would
// cost registers.
DEVICE bool look_up(const Operands& op, const Item& item, unsigned j, Columns& columns) {
  columns = {j, 0, 0};
  if (j >= item.cols) return true;
  if (item.cols - j < 4) return false;
  columns.members = 1;
  if (item.col_map == kIdentity) return true;
  const unsigned* pointers = op.index + item.col_map + j;
  columns.begin = pointers[0];
  columns.members = pointers[1] - columns.begin;
  if (columns.members == 0 || columns.members > kMembers) return false;
  bool run = true;
#pragma unroll 1
  for (unsigned k = 0; k < 4; k++) {
    run = run && pointers[k + 1] - columns.begin == (k + 1) * columns.members;
  }
  if (!run) return false;
#pragma unroll 1
  for (unsigned m = 0; m < columns.members; m++) {
    const unsigned* entry = op.index + columns.begin + m;
    const unsigned source = entry[0];
    run = run && source % 4 == 0 && entry[columns.members] == source + 1 &&
          entry[2 * columns.members] == source + 2 && entry[3 * columns.members] == source + 3;
  }
  return run;
}

DEVICE float part(const float4& x, int k) { return unpack(x).v[k]; }

// A tile with up to N members per column, TERMS terms at a time.
template <int N, int TERMS, bool BASE>
DEVICE void map_runs(const Operands& op, const Item& item, const Columns& columns, const Rows& rows) {
  const unsigned lane = threadIdx.x % 32;
  const bool inside = columns.j < item.cols;
  const unsigned batch = 32 / rows.terms;
  // Column sources[m] + k of src is member m of column j + k. Missing members are replaced by column 0 or the first
  // member, with weight 0: these loads then depend on no condition, which would take registers in all lanes.
  unsigned sources[N];
  float weights[N][4];
#pragma unroll
  for (unsigned m = 0; m < N; m++) {
    const bool present = m < columns.members, identity = item.col_map == kIdentity;
    sources[m] = !inside ? 0 : identity ? columns.j : op.index[columns.begin + (present ? m : 0)];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      weights[m][k] = !present ? 0.0f : identity ? 1.0f : op.weight[columns.begin + k * columns.members + m];
    }
  }
#pragma unroll 1
  for (unsigned done = 0; done < rows.rows; done += batch) {
    // The term of this lane.
    const unsigned count = min(batch, rows.rows - done) * rows.terms;
    unsigned start = 0, at = 0;
    float share = 0.0f;
    if (lane < count) {
      unsigned i = rows.first + done + lane / rows.terms, term = lane % rows.terms;
      unsigned layer = item.layer_start + term / rows.members;
      Group group = group_of(op.index, item.row_map, i);
      unsigned entry = group.begin + term % rows.members;
      start = op.index[layer] + unit_at(op.index, group, entry) * item.src_pitch;
      share = op.weight[layer] * weight_at(op.weight, group, entry);
      at = item.dst_offset + i * item.dst_pitch;
    }
    // The terms that end a row.
    const unsigned ends = __ballot_sync(kAllLanes, lane < count && lane % rows.terms == rows.terms - 1);

    float mapped[4] = {item.fill, item.fill, item.fill, item.fill};
#pragma unroll 1
    for (unsigned first = 0; first < count; first += TERMS) {
      float4 x[TERMS][N], old[TERMS];
#pragma unroll
      for (int t = 0; t < TERMS; t++) {
        // Beyond the last term, the last one is loaded again.
        const unsigned term = min(first + t, count - 1);
        const float* row = op.src + __shfl_sync(kAllLanes, start, term);
        const unsigned to = __shfl_sync(kAllLanes, at, term);
#pragma unroll
        for (int m = 0; m < N; m++) x[t][m] = load_raw(row + sources[m]);
        // Lanes beyond the row must not read what another warp writes.
        old[t] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (BASE && inside) old[t] = load_once(op.base + to + columns.j);
      }
#pragma unroll
      for (int t = 0; t < TERMS; t++) {
        // `term` is below 32, since TERMS divides 32. Beyond the last term the share is 0; with a condition here the
        // compiler could move each load behind it, one at a time.
        const unsigned term = first + t;
        const float weight = __shfl_sync(kAllLanes, share, term);
        const unsigned to = __shfl_sync(kAllLanes, at, term);
#pragma unroll
        for (int k = 0; k < 4; k++) {
          float sum = weights[0][k] * part(x[t][0], k);
#pragma unroll
          for (int m = 1; m < N; m++) sum = fmaf(weights[m][k], part(x[t][m], k), sum);
          mapped[k] = fmaf(weight, sum, mapped[k]);
        }
        if (ends >> term & 1) {
          Vec<float> out;
#pragma unroll
          for (int k = 0; k < 4; k++) {
            out.v[k] = op.alpha * mapped[k];
            if (BASE) out.v[k] = fmaf(op.keep, part(old[t], k), out.v[k]);
            mapped[k] = item.fill;
          }
          if (inside) store_once(op.dst + to + columns.j, out);
        }
      }
    }
  }
}

// One warp: rows `first` to `first + count - 1` and the kTileColumns columns from `column` on.
template <bool BASE>
DEVICE void map_tile(const Operands& op, const Item& item, unsigned first, unsigned count, unsigned column) {
  const unsigned lane = threadIdx.x % 32;
  Columns columns;
  bool regular = look_up(op, item, column + 4 * lane, columns);
  // Each lane checks a row, and a layer.
  Group group = group_of(op.index, item.row_map, first + min(lane, count - 1));
  const unsigned members = group.end - group.begin;
  Rows rows = {first, count, __shfl_sync(kAllLanes, members, 0), 0};
  const bool few = rows.members <= 32 && item.layers <= 32;
  if (few) rows.terms = rows.members * item.layers;
  regular = regular && members == rows.members && few && rows.terms > 0 && rows.terms <= 32;
  regular = regular && item.dst_offset % 4 == 0 && (item.rows == 1 || item.dst_pitch % 4 == 0);
  regular = regular && (item.src_rows == 1 || item.src_pitch % 4 == 0);
  if (lane < item.layers) regular = regular && op.index[item.layer_start + lane] % 4 == 0;

  if (!__all_sync(kAllLanes, regular)) {
    const unsigned end = column + min(kTileColumns, item.cols - column);
    for (unsigned i = first; i < first + count; i++) {
      Group row_group = group_of(op.index, item.row_map, i);
      for (unsigned j = column + lane; j < end; j += 32) {
        float mapped = mapped_at(op.src, op.index, op.weight, item, row_group, group_of(op.index, item.col_map, j));
        interpolate(op.dst, op.base, item.dst_offset + row_start(i, item.dst_pitch) + j, op.keep, op.alpha, mapped);
      }
    }
  } else if (!__any_sync(kAllLanes, columns.members > 1)) {
    map_runs<1, BASE ? 4 : 8, BASE>(op, item, columns, rows);
  } else if (!__any_sync(kAllLanes, columns.members > 2)) {
    map_runs<2, BASE ? 2 : 4, BASE>(op, item, columns, rows);
  } else {
    map_runs<kMembers, 1, BASE>(op, item, columns, rows);
  }
}

// Rows of a tile: kHeight, divided by the number of terms of the item's first row.
DEVICE unsigned height_of(const Item& item, const unsigned* index) {
  Group first = group_of(index, item.row_map, 0);
  return max(1u, kHeight / max(1u, item.layers * (first.end - first.begin)));
}

// Writes the number of tiles of items 0 to n to ends[n], and the rows of a tile of item n to heights[n], for all
// threads.
DEVICE void count_tiles(const Item* items, unsigned count, const unsigned* index, unsigned* ends, unsigned* heights) {
  SMEM(unsigned, totals, [kWarps]);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = threadIdx.x * kItemsPerThread;
  unsigned tiles[kItemsPerThread], sum = 0;
#pragma unroll
  for (unsigned n = 0; n < kItemsPerThread; n++) {
    tiles[n] = 0;
    if (first + n < count) {
      const Item item = items[first + n];
      if (item.rows > 0 && item.cols > 0) {
        const unsigned height = height_of(item, index);
        heights[first + n] = height;
        tiles[n] = ((item.rows - 1) / height + 1) * ((item.cols - 1) / kTileColumns + 1);
      }
    }
    sum += tiles[n];
  }
  unsigned before = sum;
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) {
    unsigned others = __shfl_up_sync(kAllLanes, before, step);
    if (lane >= step) before += others;
  }
  if (lane == 31) totals[warp] = before;
  __syncthreads();
  before -= sum;
  for (unsigned w = 0; w < warp; w++) before += totals[w];
#pragma unroll
  for (unsigned n = 0; n < kItemsPerThread; n++) {
    before += tiles[n];
    ends[first + n] = before;
  }
  __syncthreads();
}

template <bool BASE>
DEVICE void map_all(const Operands& op, const Item* items, unsigned count) {
  SMEM(unsigned, ends, [kItems]);
  SMEM(unsigned, heights, [kItems]);
  count_tiles(items, count, op.index, ends, heights);
  const unsigned tiles = ends[kItems - 1];
  for (unsigned tile = blockIdx.x * kWarps + threadIdx.x / 32; tile < tiles; tile += gridDim.x * kWarps) {
    // The first item that ends after the tile.
    unsigned n = 0;
#pragma unroll
    for (unsigned step = kItems / 2; step > 0; step /= 2) {
      if (ends[n + step - 1] <= tile) n += step;
    }
    const Item item = items[n];
    const unsigned number = n == 0 ? tile : tile - ends[n - 1];
    // Tiles are numbered across before down: the warps of a block share rows.
    const unsigned across = (item.cols - 1) / kTileColumns + 1;
    const unsigned first = number / across * heights[n];
    map_tile<BASE>(op, item, first, min(heights[n], item.rows - first), number % across * kTileColumns);
  }
}

// src is not __restrict__: if the compiler knew that no store changes it, it would move loads behind the stores of the
// previous rows (nvcc 13.0 for sm_90a does), and few would be in flight at a time.
#define VECTOR_PARAMETERS \
  const float* src, float* dst, const float* base, const Item* __restrict__ items, \
      const unsigned* __restrict__ index, const float* __restrict__ weight, float keep, float alpha, unsigned count

KERNEL(multilevel_vec16_f32, kThreads, 3, VECTOR_PARAMETERS) {
  map_all<false>({src, dst, base, index, weight, keep, alpha}, items, count);
}

KERNEL(multilevel_vec16_base_f32, kThreads, 3, VECTOR_PARAMETERS) {
  map_all<true>({src, dst, base, index, weight, keep, alpha}, items, count);
}
