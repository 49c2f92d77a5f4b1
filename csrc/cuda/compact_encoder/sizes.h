// What the persistent encoder is told: the model it runs and how its work is cut. Plain data, the same on host and
// device. Blocks are weights of 16 inputs x 16 outputs, in the order in which mma.sync or wgmma takes them (tiles.h).
#pragma once

#include <cstdint>

namespace cofi::compact_encoder {

constexpr int kWarps = 8;
constexpr int kLanes = 32;
constexpr int kThreads = kWarps * kLanes;
constexpr int kWarpBlocks = 6;  // most blocks of columns that a warp sums at once: 8 x 6 x 16 are BERT-base's 768 dims
constexpr int kPassBlocks = kWarps * kWarpBlocks;
constexpr int kGroupWarps = 4;                 // of a warpgroup, which wgmma is an instruction of
constexpr int kWideBlocks = 6;                 // of columns of one wgmma
constexpr int kPieceBlocks = 2 * kWideBlocks;  // of a warpgroup's columns, where all of them fill no stage
constexpr int kWideRowGroups = 4;              // of 16 rows: a warp of a warpgroup has one
constexpr int kBlockWidth = 16;
constexpr int kBlockBytes = kBlockWidth * kBlockWidth * 2;
constexpr int kStages = 4;                             // slots of the ring that weights pass through
constexpr int kClusterSizes = 4;                       // of 1, 2, 4 and 8 thread blocks that share multicast weights
constexpr int kMaxCluster = 1 << (kClusterSizes - 1);  // what every Hopper GPU can place
constexpr int kMaxHeadBlocks = 4;                      // 64 dims a head
constexpr int kRowPadding = 8;  // elements behind a row: 8 rows then lie in 8 different 16-byte columns of the banks

enum class Kind : int32_t { attention = 0, ffn = 1 };
enum class Activation : int32_t { gelu = 0, gelu_new = 1, relu = 2 };  // as cofi_kernels/masked_ffn/activations.py

// A kept sublayer. Vectors of it, fp32: bias of the first product, then bias of the second, weight and bias of the
// norm.
struct Sublayer {
  Kind kind;
  int32_t units;    // heads, or blocks of 16 intermediate dims
  int32_t weights;  // its first block of weights
  int32_t vectors;  // its first element of the vectors
};

// A stage of the weights: what is copied into one slot of the ring. Every thread block copies all stages in order.
struct Stage {
  int32_t first;       // block of the weights
  int32_t count;       // blocks
  int32_t row;         // blocks of columns of its product
  int16_t first_team;  // the teams of warps that read it
  int16_t end_team;
};

// Sizes of a model that every sublayer shares.
struct Model {
  int32_t hidden;         // E
  int32_t hidden_blocks;  // E in blocks of 16, rounded up: at most kPassBlocks
  int32_t head_blocks;    // D in blocks of 16, rounded up: at most kMaxHeadBlocks
  int32_t n_sublayers;
  int32_t n_stages;  // of a pass over all weights
  Activation activation;
  float eps;
  float one_over_hidden;
  float scale;  // of queries: log2(e) / sqrt(D), so that softmax is a power of 2
};

// How a tile of whole sequences lies on the thread blocks of a cluster, and in the shared memory of each.
struct Tile {
  int32_t row_groups;    // of 16 rows in a thread block
  int32_t cluster;       // thread blocks
  int32_t teams;         // of warps that share the columns: all kWarps alone, or two warpgroups, whose warps share rows
  int32_t heads;         // of a layer that are attended to together
  int32_t stage_blocks;  // most blocks in a slot of the ring
  int32_t max_tiles;     // of one cluster
  // Offsets in bytes.
  int32_t states;    // rows x (E + padding)
  int32_t work;      // queries, context, keys and values; or intermediate activations
  int32_t ring;      // kStages slots
  int32_t sums;      // 2 x rows x kWarps floats: of a row's columns, then of their squares
  int32_t ranges;    // a word a row: where its sequence begins and ends in the tile
  int32_t barriers;  // a full and an empty one for each slot
  int32_t tiles;     // pairs of sequences: the first of a tile and the first behind it
  int32_t bytes;     // in all
};

// What a launch is given. Addresses are on its device.
struct Arguments {
  const void* x;          // n_rows x hidden elements
  void* out;              // the same
  const int32_t* bounds;  // n_sequences + 1
  const void* weights;
  const float* vectors;
  const Sublayer* sublayers;
  const Stage* stages;
  int32_t n_rows;
  int32_t n_sequences;
  int32_t clusters;
  int32_t access;  // elements of x and out that may be read together: 4, or 1
  Model model;
  Tile tile;
};

}  // namespace cofi::compact_encoder
