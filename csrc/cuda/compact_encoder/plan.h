// Decides how the persistent encoder runs a model on a batch: plain C++, no GPU needed.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "cuda/compact_encoder/sizes.h"

namespace cofi::compact_encoder {

struct Layer {
  int heads;
  int intermediate;
  bool mha;
  bool ffn;
};

struct Shape {
  int hidden;
  int head_dim;
  float eps;
  Activation activation;
  std::vector<Layer> layers;
};

struct Gpu {
  int multiprocessors;
  int shared_bytes;  // of a thread block
  int max_cluster;   // 1 where there are no clusters, and no wgmma
  // Clusters of 1, 2, 4 and 8 thread blocks that run at once. Often fewer than multiprocessors / size: a cluster lies
  // in one group of multiprocessors (GPC), and some groups have fewer than others.
  std::array<int, kClusterSizes> resident;
};

// Clusters of so many thread blocks that run at once, 0 where there are none of that size.
int resident_clusters(const Gpu& gpu, int size);

struct Batch {
  int64_t rows;
  int64_t sequences;
  int64_t max_seqlen;
};

// The order of a model's weights and vectors, which the weights are packed in.
struct Program {
  Model model;
  std::vector<Sublayer> sublayers;
  int64_t blocks;   // of weights
  int64_t vectors;  // floats
};

struct Plan {
  std::string refusal;  // why this shape cannot be taken; the rest is then empty
  Program program;
  Tile tile;
  std::vector<Stage> stages;
  int clusters;
  double predicted_us;
};

Program make_program(const Shape& shape);

std::vector<Stage> make_stages(const Program& program, const Tile& tile);

// The fastest tile by the sums of README.md. A shape that no tile takes is refused.
Plan make_plan(const Shape& shape, const Gpu& gpu, const Batch& batch);

// A tile of this size, for tests of sizes that would not be chosen. Refused where it does not fit.
Plan make_plan_of(const Shape& shape, const Gpu& gpu, const Batch& batch, int row_groups, int cluster, int heads);

}  // namespace cofi::compact_encoder
