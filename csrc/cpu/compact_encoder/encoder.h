// The pruned encoder: weights packed once, all layers in one call.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/scratch.h"
#include "cpu/compact_encoder/kernels.h"
#include "cpu/compact_encoder/linear.h"

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

struct Settings {
  int64_t hidden, head_dim;
  float eps;
  Activation activation;
  Precision precision;
};

class Encoder {
 public:
  Encoder(const Settings& settings, const std::vector<LayerSize>& sizes, const std::vector<LayerWeights>& weights,
          int threads);
  Encoder(const Encoder&) = delete;  // its products know where each other are
  Encoder& operator=(const Encoder&) = delete;

  // x (tokens, hidden) -> out, the same memory or none of it. bounds: (sequences + 1,) from 0 to tokens, ascending.
  // Any number of threads may call it at once. Throws std::bad_alloc where its workspace does not fit.
  void run(const float* x, const int32_t* bounds, int64_t sequences, float* out, int threads) const;

  int64_t packed_bytes() const { return packed_bytes_; }

 private:
  struct Norm {
    std::vector<float, LineAligned<float>> weight, bias;
  };

  // The FFN goes block by block of kFfnBlock dims, at least one.
  struct Layer {
    LayerSize size;
    Linear qkv, out;
    std::vector<Linear> up, down;
    Norm attention_norm, ffn_norm;
  };

  // Rows of one thread in one chunk of whole sequences, and where they are worked on.
  struct Rows;
  struct Workspace;

  void pack_attention(const LayerWeights& from, Layer& to, int threads);
  void pack_ffn(const LayerWeights& from, Layer& to, int threads);
  Linear pack(const LinearSource& from, int64_t k, int64_t n, int threads);
  Norm pack(const float* weight, const float* bias);
  void put_in_order();
  bool converts(int64_t tokens) const;  // whether products of a call do
  int64_t chunk_tokens(int64_t tokens, int threads, bool converts) const;
  void run_chunk(const Workspace& space, const int32_t* bounds, int64_t sequences, float* x, int threads) const;
  void prepare(const Rows& rows, const float* a, int64_t lda, int64_t k, const dots::Rows& to) const;
  void multiply(const Linear& by, const Rows& rows, const Operand& a, float* c, int64_t ldc,
                bool accumulate = false) const;
  void attend(const Layer& layer, const Rows& rows, const float* qkv) const;
  void attend(const Rows& rows, const float* qkv, int64_t heads, int64_t head, int64_t sequence) const;
  void attention(const Layer& layer, const Rows& rows) const;
  void feed_forward(const Layer& layer, const Rows& rows) const;
  void finish(const Norm& norm, const Rows& rows) const;

  Settings settings_;
  std::optional<dots::Number> number_;  // what products may convert their factors to
  int64_t hidden_, head_dim_;
  int64_t widest_ = 0;  // of all attention sublayers: heads * head_dim
  int64_t packed_bytes_ = 0, weights_ = 0;
  std::vector<Layer> layers_;
};

}  // namespace cofi::compact_encoder
