#include "cuda/compact_encoder/predict.h"

#include <algorithm>
#include <cmath>

#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {
namespace {

// Of an H200, as cofi_kernels/compact_encoder/plans.py has them.
constexpr double kFlopsPerUs = 3e6;          // of a multiprocessor's tensor cores through mma.sync
constexpr double kWideFlopsPerUs = 5e6;      // through wgmma
constexpr double kSharedBytesPerUs = 220e3;  // of a multiprocessor: 128 bytes a cycle
constexpr double kIngestBytesPerUs = 80e3;   // that a multiprocessor draws from L2
constexpr double kL2BytesPerUs = 5.5e6;      // that all of them draw together
constexpr double kLatencyUs = 0.8;           // of a stage under load
constexpr double kLaunchUs = 5.0;            // launch, cutting into tiles, the first stage
constexpr double kBlockSyncUs = 0.1;
constexpr double kClusterSyncUs = 0.4;
constexpr double kNormUs = 0.7;          // residual and LayerNorm of a thread block's rows
constexpr double kAttendUs = 1.7;        // a warp: 16 queries of a head, 128 keys; 128 mma and their softmax
constexpr double kRowBytesPerUs = 40e3;  // states of a tile in and out

// Bytes that go through shared memory: every team reads all rows' inputs, and a block of weights is written and read.
double product_us(const Tile& tile, double row, double depth, double bytes_per_us) {
  const bool wide = is_wide(tile);
  const double rows = rows_of(tile), teams = std::min<double>(tile.teams, row), step = wide ? kWideBlocks : 1;
  // All wait for the team that has most blocks of columns, of which wgmma takes several at once.
  const double slowest = std::ceil(std::ceil(row / tile.teams) / step) * step * tile.teams;
  const double us = 2.0 * rows * slowest * depth * kBlockWidth * kBlockWidth / (wide ? kWideFlopsPerUs : kFlopsPerUs);
  const double shared = depth * (teams * rows * kBlockWidth * kElement + 2 * row * kBlockBytes);
  return std::max({us, shared / kSharedBytesPerUs, row * depth * kBlockBytes / bytes_per_us});
}

double attention_us(const Plan& plan, int heads, double length, double bytes_per_us) {
  const Model& model = plan.program.model;
  double us = product_us(plan.tile, model.hidden_blocks, heads * model.head_blocks, bytes_per_us) + 4 * kBlockSyncUs;
  for (int h = 0; h < heads; h += plan.tile.heads) {
    const int group = group_heads(plan.tile, heads, h);
    us += product_us(plan.tile, 3 * group * model.head_blocks, model.hidden_blocks, bytes_per_us);
    us += 2 * kClusterSyncUs + kBlockSyncUs;
    us += ceil_div(group * plan.tile.row_groups, kWarps) * kAttendUs * length / 128;
  }
  return us + kNormUs;
}

double ffn_us(const Plan& plan, int dims, double bytes_per_us) {
  const Model& model = plan.program.model;
  double us = product_us(plan.tile, model.hidden_blocks, dims, bytes_per_us) + 5 * kBlockSyncUs + kNormUs;
  for (int pass = 0; pass * kPassBlocks < dims; ++pass) {
    us += product_us(plan.tile, pass_row(dims, pass), model.hidden_blocks, bytes_per_us);
  }
  return us;
}

}  // namespace

double predict_us(const Plan& plan, const Gpu& gpu, const Batch& batch) {
  const Tile& tile = plan.tile;
  const double length = std::max(1.0, static_cast<double>(batch.rows) / std::max<int64_t>(1, batch.sequences));
  const double per_tile = std::max(1.0, static_cast<double>(static_cast<int64_t>(tile_rows(tile) / length)));
  const double tiles = std::max(1.0, batch.sequences / per_tile);
  const int at_once = std::max(1, resident_clusters(gpu, tile.cluster));
  const double rounds = static_cast<double>((static_cast<int64_t>(tiles + 0.999) + at_once - 1) / at_once);
  const double blocks = std::min<double>(tiles, at_once) * tile.cluster;
  const double in_flight = (kStages - 1.0) * tile.stage_blocks * kBlockBytes / kLatencyUs;
  const double bytes_per_us = std::min({kIngestBytesPerUs, in_flight, kL2BytesPerUs * tile.cluster / blocks});
  double us = 2.0 * rows_of(tile) * plan.program.model.hidden * kElement / kRowBytesPerUs;
  for (const Sublayer& sublayer : plan.program.sublayers) {
    us += sublayer.kind == Kind::attention ? attention_us(plan, sublayer.units, length, bytes_per_us)
                                           : ffn_us(plan, sublayer.units, bytes_per_us);
  }
  return kLaunchUs + rounds * us;
}

}  // namespace cofi::compact_encoder
