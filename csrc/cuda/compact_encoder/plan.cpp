#include "cuda/compact_encoder/plan.h"

#include <algorithm>
#include <cmath>

#include "cuda/compact_encoder/predict.h"
#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {
namespace {

constexpr int kFewestStageBlocks = 2 * kWarpBlocks;
static_assert(kFewestStageBlocks >= kPieceBlocks, "a stage holds a piece of a warpgroup's columns");
constexpr int64_t kMostRows = 1 << 30;

int blocks_of(int n) { return ceil_div(n, kBlockWidth); }

int most_heads(const Shape& shape) {
  int heads = 0;
  for (const Layer& layer : shape.layers) heads = std::max(heads, layer.heads);
  return heads;
}

// What of a layer's heads or intermediate dims lies in shared memory at once.
int work_bytes(const Model& model, const Tile& tile, const Sublayer& sublayer) {
  const int rows = rows_of(tile);
  if (sublayer.kind == Kind::ffn) return sublayer.units == 0 ? 0 : rows * row_stride(sublayer.units) * kElement;
  if (sublayer.units == 0) return 0;
  const int group = std::min(tile.heads, sublayer.units);
  return rows * context_stride(model, sublayer.units) * kElement + 2 * group * key_bytes(model, tile);
}

// A pair of int32 for each tile of a cluster: consecutive tiles hold more rows together than one can.
int tiles_of_cluster(const Tile& tile, const Batch& batch, int clusters) {
  const int64_t tiles = std::min(batch.sequences, 2 * (batch.rows / tile_rows(tile)) + 1);
  return static_cast<int>((tiles + clusters - 1) / clusters);
}

// Sets the offsets and the ring, which takes what is left. False where too little is.
bool lay_out(const Program& program, const Gpu& gpu, Tile* tile) {
  int work = 0;
  for (const Sublayer& sublayer : program.sublayers) {
    work = std::max(work, work_bytes(program.model, *tile, sublayer));
  }
  const int rows = rows_of(*tile);
  tile->states = 0;
  tile->work = rows * row_stride(program.model.hidden_blocks) * kElement;
  tile->ring = (tile->work + work + 127) / 128 * 128;
  const int sums = 2 * rows * kWarps * 4, ranges = rows * 4, barriers = 2 * kStages * 8, tiles = tile->max_tiles * 8;
  const int left = gpu.shared_bytes - tile->ring - sums - ranges - barriers - tiles;
  const int stage_blocks = std::min(kPassBlocks, left / (kStages * kBlockBytes) / kWarpBlocks * kWarpBlocks);
  if (left < 0 || stage_blocks < kFewestStageBlocks) return false;
  tile->stage_blocks = stage_blocks;
  tile->sums = tile->ring + kStages * stage_blocks * kBlockBytes;
  tile->ranges = tile->sums + sums;
  tile->barriers = tile->ranges + ranges;
  tile->tiles = tile->barriers + barriers;
  tile->bytes = tile->tiles + tiles;
  return true;
}

// All are cut into tiles at once, with 4 bytes of shared memory each beside a list of the tiles.
int64_t most_sequences(const Gpu& gpu) { return gpu.shared_bytes / 8; }

std::string refusal_of(const Shape& shape, const Gpu& gpu, const Batch& batch) {
  if (blocks_of(shape.hidden) > kPassBlocks) {
    return "takes at most " + std::to_string(kPassBlocks * kBlockWidth) + " hidden dims, the model has " +
           std::to_string(shape.hidden);
  }
  if (blocks_of(shape.head_dim) > kMaxHeadBlocks) {
    return "takes at most " + std::to_string(kMaxHeadBlocks * kBlockWidth) + " dims a head, the model has " +
           std::to_string(shape.head_dim);
  }
  if (batch.rows > kMostRows) return "takes at most 2^30 tokens, the batch has " + std::to_string(batch.rows);
  if (batch.sequences > most_sequences(gpu)) {
    return "takes at most " + std::to_string(most_sequences(gpu)) + " sequences, the batch has " +
           std::to_string(batch.sequences);
  }
  return "no tile of whole sequences of up to " + std::to_string(batch.max_seqlen) + " tokens fits into " +
         std::to_string(gpu.shared_bytes) + " bytes of shared memory of " + std::to_string(gpu.max_cluster) +
         " thread blocks";
}

Plan refuse(const std::string& why) {
  Plan plan{};
  plan.refusal = why;
  return plan;
}

bool takes(const Shape& shape, const Gpu& gpu, const Batch& batch) {
  return blocks_of(shape.hidden) <= kPassBlocks && blocks_of(shape.head_dim) <= kMaxHeadBlocks &&
         batch.rows <= kMostRows && batch.sequences <= most_sequences(gpu);
}

// All of a plan but its stages, which need not be known to compare it with others.
Plan draft(const Shape& shape, const Gpu& gpu, const Batch& batch, int row_groups, int cluster, int heads) {
  Plan plan{};
  if (!takes(shape, gpu, batch)) return refuse(refusal_of(shape, gpu, batch));
  Tile& tile = plan.tile;
  tile.row_groups = row_groups;
  tile.cluster = cluster;
  tile.teams = teams_of(is_wide(row_groups, gpu.max_cluster > 1));
  tile.heads = heads;
  // Each has its share of the tiles from the start: one that had to wait for another's end would double the time.
  const int resident = resident_clusters(gpu, cluster);
  plan.clusters =
      static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(resident, 2 * (batch.rows / tile_rows(tile)) + 1)));
  tile.max_tiles = tiles_of_cluster(tile, batch, plan.clusters);
  plan.program = make_program(shape);
  const bool fits = batch.max_seqlen <= tile_rows(tile) && cluster <= gpu.max_cluster && resident > 0 &&
                    3 * heads * plan.program.model.head_blocks <= kPassBlocks && lay_out(plan.program, gpu, &tile) &&
                    batch.sequences * 4 <= tile.tiles;
  if (!fits) return refuse(refusal_of(shape, gpu, batch));
  plan.predicted_us = predict_us(plan, gpu, batch);
  return plan;
}

Plan with_stages(Plan plan) {
  if (plan.refusal.empty()) plan.stages = make_stages(plan.program, plan.tile);
  plan.program.model.n_stages = static_cast<int32_t>(plan.stages.size());
  return plan;
}

}  // namespace

int resident_clusters(const Gpu& gpu, int size) {
  for (int i = 0; i < kClusterSizes; ++i) {
    if (size == 1 << i) return gpu.resident[i];
  }
  return 0;
}

Program make_program(const Shape& shape) {
  Program program{};
  Model& model = program.model;
  model.hidden = shape.hidden;
  model.hidden_blocks = blocks_of(shape.hidden);
  model.head_blocks = blocks_of(shape.head_dim);
  model.activation = shape.activation;
  model.eps = shape.eps;
  model.one_over_hidden = 1.0f / static_cast<float>(shape.hidden);
  model.scale = static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(shape.head_dim)));
  const auto add = [&](Kind kind, int units, int columns, int width) {
    program.sublayers.push_back(
        {kind, units, static_cast<int32_t>(program.blocks), static_cast<int32_t>(program.vectors)});
    program.blocks += static_cast<int64_t>(columns + width) * model.hidden_blocks;
    program.vectors += static_cast<int64_t>(columns + 3 * model.hidden_blocks) * kBlockWidth;
  };
  for (const Layer& layer : shape.layers) {
    const int heads = layer.heads * model.head_blocks, dims = blocks_of(layer.intermediate);
    if (layer.mha) add(Kind::attention, layer.heads, 3 * heads, heads);
    if (layer.ffn) add(Kind::ffn, dims, dims, dims);
  }
  model.n_sublayers = static_cast<int32_t>(program.sublayers.size());
  return program;
}

std::vector<Stage> make_stages(const Program& program, const Tile& tile) {
  std::vector<Stage> stages;
  const Model& model = program.model;
  int base = 0;
  const auto add = [&](int row, int depth) {
    const Product p = product_of(row, depth, tile);
    for (int i = 0; i < stages_of(p); ++i) stages.push_back(stage_of(p, base, i));
    base += row * depth;
  };
  for (const Sublayer& sublayer : program.sublayers) {
    if (sublayer.kind == Kind::attention) {
      for (int h = 0; h < sublayer.units; h += tile.heads) {
        add(3 * group_heads(tile, sublayer.units, h) * model.head_blocks, model.hidden_blocks);
      }
      add(model.hidden_blocks, sublayer.units * model.head_blocks);
    } else {
      for (int pass = 0; pass * kPassBlocks < sublayer.units; ++pass) {
        add(pass_row(sublayer.units, pass), model.hidden_blocks);
      }
      add(model.hidden_blocks, sublayer.units);
    }
  }
  return stages;
}

Plan make_plan_of(const Shape& shape, const Gpu& gpu, const Batch& batch, int row_groups, int cluster, int heads) {
  return with_stages(draft(shape, gpu, batch, row_groups, cluster, heads));
}

Plan make_plan(const Shape& shape, const Gpu& gpu, const Batch& batch) {
  Plan best = refuse(refusal_of(shape, gpu, batch));
  const int heads = std::max(1, most_heads(shape));
  for (const int row_groups : {2, 4}) {
    for (int cluster = 1; cluster <= std::min(kMaxCluster, gpu.max_cluster); cluster *= 2) {
      for (int group = 1; group <= heads; ++group) {
        Plan plan = draft(shape, gpu, batch, row_groups, cluster, group);
        if (!plan.refusal.empty()) break;  // more heads at once need more
        if (!best.refusal.empty() || plan.predicted_us < best.predicted_us) best = std::move(plan);
      }
    }
  }
  return with_stages(std::move(best));
}

}  // namespace cofi::compact_encoder
