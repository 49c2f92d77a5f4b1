// Weights into panels, once.
#include <algorithm>
#include <cmath>

#include "cpu/compact_encoder/encoder.h"
#include "cpu/compact_encoder/sizes.h"
#include "cpu/gemm/gemm.h"

namespace cofi::compact_encoder {
namespace {

std::vector<float> copy(const float* from, int64_t n) { return std::vector<float>(from, from + n); }

}  // namespace

Encoder::Encoder(int64_t hidden, int64_t head_dim, float eps, Activation activation,
                 const std::vector<LayerSize>& sizes, const std::vector<LayerWeights>& weights, int threads)
    : hidden_(hidden), head_dim_(head_dim), eps_(eps), activation_(activation), layers_(sizes.size()) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    layers_[i].size = sizes[i];
    widest_ = std::max(widest_, sizes[i].heads * head_dim);
    if (sizes[i].mha) pack_attention(weights[i], layers_[i], threads);
    if (sizes[i].ffn) pack_ffn(weights[i], layers_[i], threads);
  }
}

// 1 / sqrt(head_dim) goes into the queries' weights and bias.
void Encoder::pack_attention(const LayerWeights& from, Layer& to, int threads) const {
  const int64_t width = to.size.heads * head_dim_;
  std::vector<float> scale(3 * width, 1.0f);
  std::fill(scale.begin(), scale.begin() + width, 1.0f / std::sqrt(static_cast<float>(head_dim_)));
  to.qkv.panels.resize(gemm::packed_size(hidden_, 3 * width));
  gemm::Source qkv{from.w_qkv, hidden_};
  qkv.n_scale = scale.data();
  gemm::pack_columns(qkv, hidden_, 3 * width, to.qkv.panels.data(), threads);
  to.qkv.bias = copy(from.b_qkv, 3 * width);
  for (int64_t j = 0; j < width; ++j) to.qkv.bias[j] *= scale[j];
  to.out.panels.resize(gemm::packed_size(width, hidden_));
  gemm::pack_rows({from.w_out, hidden_}, width, hidden_, to.out.panels.data(), threads);
  to.out.bias = copy(from.b_out, hidden_);
  to.attention_norm = {copy(from.attention_norm_weight, hidden_), copy(from.attention_norm_bias, hidden_)};
}

// The down-projection is packed in blocks of kFfnBlock dims, one after the other: so are they multiplied.
void Encoder::pack_ffn(const LayerWeights& from, Layer& to, int threads) const {
  const int64_t n = to.size.intermediate;
  to.up.panels.resize(gemm::packed_size(hidden_, n));
  gemm::pack_columns({from.w_up, hidden_}, hidden_, n, to.up.panels.data(), threads);
  to.up.bias = copy(from.b_up, n);
  to.down.panels.resize(gemm::packed_size(n, hidden_));
  for (int64_t first = 0; first < n; first += kFfnBlock) {
    float* panels = to.down.panels.data() + gemm::packed_size(first, hidden_);
    gemm::pack_rows({from.w_down + first * hidden_, hidden_}, std::min(kFfnBlock, n - first), hidden_, panels, threads);
  }
  to.down.bias = copy(from.b_down, hidden_);
  to.ffn_norm = {copy(from.ffn_norm_weight, hidden_), copy(from.ffn_norm_bias, hidden_)};
}

int64_t Encoder::packed_bytes() const {
  std::size_t floats = 0;
  for (const Layer& layer : layers_) {
    for (const Linear* part : {&layer.qkv, &layer.out, &layer.up, &layer.down}) {
      floats += part->panels.size() + part->bias.size();
    }
    floats += 2 * (layer.attention_norm.weight.size() + layer.ffn_norm.weight.size());
  }
  return static_cast<int64_t>(floats * sizeof(float));
}

}  // namespace cofi::compact_encoder
