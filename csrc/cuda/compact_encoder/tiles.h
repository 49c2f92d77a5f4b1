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

// Whether warpgroups multiply, by wgmma: from 64 rows on, on the GPUs that have clusters.
COFI_BOTH constexpr bool is_wide(int row_groups, bool has_clusters) {
  return row_groups == kWideRowGroups && has_clusters;
}
COFI_BOTH constexpr int teams_of(bool wide) { return wide ? kWarps / kGroupWarps : kWarps; }
COFI_BOTH bool is_wide(const Tile& tile) { return tile.teams == teams_of(true); }

// How the sums of a thread block's rows lie on its warps. Alone, each warp has all rows of up to kWarpBlocks blocks of
// columns and multiplies by mma.sync. Wide, a warpgroup has half of the columns and each warp of it 16 of 64 rows: the
// sums of wgmma. Either way a lane has what mma.m16n8k16 would give it of 16 rows and 8 columns.
template <int kRowGroups, bool kWide>
struct Cut {
  static_assert(!kWide || is_wide(kRowGroups, true), "wgmma has 64 rows");
  static constexpr bool kIsWide = kWide;
  static constexpr int kGroups = kWide ? 1 : kRowGroups;  // of 16 rows that a warp has
  static constexpr int kTeams = teams_of(kWide);
  static constexpr int kBlocks = kPassBlocks / kTeams;  // most blocks of columns that a warp has
  static COFI_BOTH int team(int warp) { return kWide ? warp / kGroupWarps : warp; }
  static COFI_BOTH int first_row(int warp) { return kWide ? warp % kGroupWarps * kBlockWidth : 0; }
};

// Within a block as wgmma takes it: 8 outputs x 8 inputs lie together, 16 bytes an output; the next 8 inputs follow,
// then the next 8 outputs. Blocks of columns follow one another in the same steps.
constexpr int kWideInputStep = kBlockBytes / 4;
constexpr int kWideOutputStep = kBlockBytes / 2;

// A product of `depth` blocks of inputs and `row` blocks of outputs, as it goes through the ring. Its blocks lie depth
// by depth in memory. A stage holds several depths of all columns, or one depth of the columns of some teams, or of a
// piece of one warpgroup's columns.
struct Product {
  int row;
  int depth;
  int teams;
  int team_blocks;  // of columns; team t takes those from t * team_blocks on
  int part_teams;   // teams that read a stage
  int pieces;       // of the first team's columns: 1, or 2 of up to kPieceBlocks
  int parts;        // stages of one depth
  int steps;        // depths of a stage
};

// The columns of one depth that a stage has: of the teams [first_team, end_team), behind the first `skip` of each.
struct Part {
  int first_team;
  int end_team;
  int skip;
};

COFI_BOTH Product product_of(int row, int depth, const Tile& tile) {
  Product p{row, depth, tile.teams, ceil_div(row, tile.teams), 0, 1, 1, 1};
  p.part_teams = least(p.teams, most(1, tile.stage_blocks / most(1, p.team_blocks)));
  if (row <= tile.stage_blocks) {
    p.part_teams = p.teams;
    p.steps = least(most(1, depth), tile.stage_blocks / most(1, row));
  } else if (p.team_blocks <= tile.stage_blocks) {
    p.parts = ceil_div(row, p.part_teams * p.team_blocks);
  } else {
    p.pieces = ceil_div(p.team_blocks, kPieceBlocks);
    p.parts = p.pieces + ceil_div(row - p.team_blocks, kPieceBlocks);
  }
  return p;
}

COFI_BOTH Part part_of(const Product& p, int i) {
  if (p.pieces == 1) return {i * p.part_teams, least(p.teams, (i + 1) * p.part_teams), 0};
  const int team = i < p.pieces ? 0 : 1;
  return {team, team + 1, (i - team * p.pieces) * kPieceBlocks};
}

COFI_BOTH int stages_of(const Product& p) { return p.row == 0 ? 0 : p.parts * ceil_div(p.depth, p.steps); }

// Stage i of a product whose first block is `base`.
COFI_BOTH Stage stage_of(const Product& p, int base, int i) {
  const int depth = i / p.parts * p.steps, steps = least(p.steps, p.depth - depth);
  const Part part = part_of(p, i % p.parts);
  const int first = part.first_team * p.team_blocks + part.skip, last = least(p.row, part.end_team * p.team_blocks);
  const int end = p.pieces == 1 ? last : least(last, first + kPieceBlocks);
  return {base + depth * p.row + first, steps * (end - first), p.row, static_cast<int16_t>(part.first_team),
          static_cast<int16_t>(part.end_team)};
}

// The blocks of columns that a team has of a product, [first, end).
COFI_BOTH int team_first(const Product& p, int team) { return least(p.row, team * p.team_blocks); }
COFI_BOTH int team_end(const Product& p, int team) { return least(p.row, (team + 1) * p.team_blocks); }

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
