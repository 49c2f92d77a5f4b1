// Where everything lies: the arithmetic that the planner, the kernel and its emulation on the host share.
#pragma once

#include "cuda/compact_encoder/sizes.h"

#ifdef __CUDACC__
#define COFI_BOTH __host__ __device__ __forceinline__
#define COFI_KERNEL __device__ __forceinline__
#else  // plain C++ runs the kernel's own code in tests
#define COFI_BOTH inline
#define COFI_KERNEL inline
#endif

namespace cofi::compact_encoder {

constexpr int kElement = 2;  // bytes of bf16 and fp16

COFI_BOTH int ceil_div(int a, int b) { return (a + b - 1) / b; }
COFI_BOTH int least(int a, int b) { return a < b ? a : b; }
COFI_BOTH int most(int a, int b) { return a > b ? a : b; }

// Elements from one row in shared memory to the next. 32 j + 16 bytes: the 8 rows that ldmatrix reads together start in
// 8 different groups of 4 banks.
COFI_BOTH int row_stride(int blocks) { return blocks * kBlockWidth + kRowPadding; }

COFI_BOTH int rows_of(const Tile& tile) { return tile.row_groups * kBlockWidth; }
COFI_BOTH int tile_rows(const Tile& tile) { return rows_of(tile) * tile.cluster; }

// Of the accumulators and factors of mma.m16n8k16: a lane holds columns 2 t, 2 t + 1 of rows g and g + 8.
COFI_BOTH int fragment_row(int lane) { return lane / 4; }
COFI_BOTH int fragment_column(int lane) { return lane % 4 * 2; }

// A product of `depth` blocks of inputs and `row` blocks of outputs, as it goes through the ring. Its blocks lie depth
// by depth in memory. A stage holds several depths of all columns, or one depth of the columns of some warps.
struct Product {
  int row;
  int depth;
  int warp_blocks;  // of columns; warp w takes those from w * warp_blocks on
  int part_warps;   // warps that read a stage
  int parts;        // stages of one depth
  int steps;        // depths of a stage
};

COFI_BOTH Product product_of(int row, int depth, int stage_blocks) {
  Product p{row, depth, ceil_div(row, kWarps), 0, 1, 1};
  p.part_warps = least(kWarps, most(1, stage_blocks / most(1, p.warp_blocks)));
  if (row <= stage_blocks) {
    p.part_warps = kWarps;
    p.steps = least(most(1, depth), stage_blocks / most(1, row));
  } else {
    p.parts = ceil_div(row, p.part_warps * p.warp_blocks);
  }
  return p;
}

COFI_BOTH int stages_of(const Product& p) { return p.row == 0 ? 0 : p.parts * ceil_div(p.depth, p.steps); }

// Stage i of a product whose first block is `base`.
COFI_BOTH Stage stage_of(const Product& p, int base, int i) {
  const int depth = i / p.parts * p.steps, part = i % p.parts;
  const int first_warp = part * p.part_warps, end_warp = least(kWarps, first_warp + p.part_warps);
  const int first = first_warp * p.warp_blocks, end = least(p.row, end_warp * p.warp_blocks);
  const int steps = least(p.steps, p.depth - depth);
  return {base + depth * p.row + first, steps * (end - first), p.row, static_cast<int16_t>(first_warp),
          static_cast<int16_t>(end_warp)};
}

// The blocks of columns that a warp has of a product, [first, end).
COFI_BOTH int warp_first(const Product& p, int warp) { return least(p.row, warp * p.warp_blocks); }
COFI_BOTH int warp_end(const Product& p, int warp) { return least(p.row, (warp + 1) * p.warp_blocks); }

// Products of more columns than the warps can sum at once are made in passes of kPassBlocks.
COFI_BOTH int pass_row(int blocks, int pass) { return least(kPassBlocks, blocks - pass * kPassBlocks); }

// Queries and contexts of all heads of a layer lie side by side; behind them, for each head of a group, the keys and
// then the values of all rows of the cluster's tile.
COFI_BOTH int context_stride(const Model& model, int heads) { return row_stride(heads * model.head_blocks); }
COFI_BOTH int keys_offset(const Model& model, const Tile& tile, int heads) {
  return tile.work + rows_of(tile) * context_stride(model, heads) * kElement;
}
COFI_BOTH int key_bytes(const Model& model, const Tile& tile) {  // keys, or values, of one head
  return tile_rows(tile) * row_stride(model.head_blocks) * kElement;
}
COFI_BOTH int group_heads(const Tile& tile, int heads, int first) { return least(tile.heads, heads - first); }

// What ldmatrix.x4 reads for a lane: the first factor, 16 rows x 16 columns (A); a second factor that lies output by
// output, 16 outputs x 16 inputs (keys); one that lies input by input, 16 inputs x 16 outputs, transposed (values).
COFI_BOTH int a_row(int lane) { return lane % 16; }
COFI_BOTH int a_column(int lane) { return lane / 16 * 8; }
COFI_BOTH int key_row(int lane) { return lane % 8 + lane / 16 * 8; }
COFI_BOTH int key_column(int lane) { return lane / 8 % 2 * 8; }
COFI_BOTH int value_row(int lane) { return lane % 16; }
COFI_BOTH int value_column(int lane) { return lane / 16 * 8; }

}  // namespace cofi::compact_encoder
