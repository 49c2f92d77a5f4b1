// The pruned encoder: weights packed once, all layers in one call.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/compact_encoder/kernels.h"

namespace cofi::compact_encoder {

// Addresses of a layer's weights as the op takes them (compact_encoder/layout.py); read while packing only.
struct LayerWeights {
  const float *w_qkv, *b_qkv, *w_out, *b_out, *attention_norm_weight, *attention_norm_bias;
  const float *w_up, *b_up, *w_down, *b_down, *ffn_norm_weight, *ffn_norm_bias;
};

// Widths of a layer. A sublayer that is not kept is the identity.
struct LayerSize {
  int64_t heads, intermediate;
  bool mha, ffn;
};

class Encoder {
 public:
  Encoder(int64_t hidden, int64_t head_dim, float eps, Activation activation, const std::vector<LayerSize>& sizes,
          const std::vector<LayerWeights>& weights, int threads);

  // x (tokens, hidden) -> out, which may not overlap. bounds: (sequences + 1,) from 0 to tokens, ascending.
  // Any number of threads may call it at once. Throws std::bad_alloc where its workspace does not fit.
  void run(const float* x, const int32_t* bounds, int64_t sequences, float* out, int threads) const;

  int64_t packed_bytes() const;

 private:
  using Floats = std::vector<float>;

  // A product: panels of the matrix and its bias.
  struct Linear {
    Floats panels, bias;
  };

  struct Norm {
    Floats weight, bias;
  };

  struct Layer {
    LayerSize size;
    Linear qkv, out, up, down;
    Norm attention_norm, ffn_norm;
  };

  // Rows of one thread in one chunk of whole sequences, and where they are worked on.
  struct Rows;
  struct Workspace;

  void pack_attention(const LayerWeights& from, Layer& to, int threads) const;
  void pack_ffn(const LayerWeights& from, Layer& to, int threads) const;
  int64_t chunk_tokens(int64_t tokens, int threads) const;
  void run_chunk(const Workspace& space, const int32_t* bounds, int64_t sequences, float* x, int threads) const;
  void attention(const Layer& layer, const Rows& rows, const float* qkv) const;
  void attend(const Rows& rows, const float* qkv, int64_t heads, int64_t head, int64_t sequence) const;
  void feed_forward(const Layer& layer, const Rows& rows) const;
  void finish(const Norm& norm, const Rows& rows) const;

  int64_t hidden_, head_dim_;
  float eps_;
  Activation activation_;
  int64_t widest_ = 0;  // of all attention sublayers: heads * head_dim
  std::vector<Layer> layers_;
};

}  // namespace cofi::compact_encoder
