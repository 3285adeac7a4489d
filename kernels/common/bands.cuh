// Which block makes what of a batch of products: blockIdx.z is the product, blockIdx.x its tile.
//
// Blocks run roughly in the order of their number. In bands of 8 rows of tiles, those that run at one time form a
// square rather than a line, and read fewer different rows and columns through the second-level cache.
#pragma once

#include "kernel.cuh"

// Elements before this block's matrix, where those of a batch lie one after another as blocks of `rows` rows.
DEVICE long long matrix_start(int rows, int pitch) { return blockIdx.z * row_start(rows, pitch); }

constexpr int kBand = 8;  // Rows of tiles that are swept together.

// First row and column of tile number `tile`, of ROWS x COLUMNS outputs each.
template <int ROWS, int COLUMNS>
DEVICE void tile_position(int tile, int m, int n, int& row, int& column) {
  const int tiles_m = (m + ROWS - 1) / ROWS, tiles_n = (n + COLUMNS - 1) / COLUMNS;
  const int first = tile / (kBand * tiles_n) * kBand;
  const int height = min(kBand, tiles_m - first);
  const int within = tile - first * tiles_n;
  row = (first + within % height) * ROWS;
  column = within / height * COLUMNS;
}
