// The output tile that a block computes, in a batch of matrix products: blockIdx.z is the product, blockIdx.x the tile.
//
// Blocks run roughly in the order of their number. Tiles are numbered in bands of 8 rows of tiles, so that the blocks
// that run at the same time cover a square rather than a line, and read fewer different rows and columns through L2.
#pragma once

#include "kernel.cuh"

// Elements before this block's matrix, where the matrices of a batch follow one another as blocks of `rows` rows.
DEVICE long long matrix_start(int rows, int pitch) { return blockIdx.z * row_start(rows, pitch); }

constexpr int kBand = 8;  // Rows of tiles in a band.

// The first row and column of tile number `tile`, for tiles of ROWS x COLUMNS outputs.
template <int ROWS, int COLUMNS>
DEVICE void tile_position(int tile, int m, int n, int& row, int& column) {
  const int tiles_m = (m + ROWS - 1) / ROWS, tiles_n = (n + COLUMNS - 1) / COLUMNS;
  const int first = tile / (kBand * tiles_n) * kBand;
  const int height = min(kBand, tiles_m - first);
  const int within = tile - first * tiles_n;
  row = (first + within % height) * ROWS;
  column = within / height * COLUMNS;
}
