// Weights into the layout of their products, once.
#include <algorithm>
#include <cmath>

#include "cpu/compact_encoder/encoder.h"
#include "cpu/compact_encoder/sizes.h"

namespace cofi::compact_encoder {

Encoder::Encoder(const Settings& settings, const std::vector<LayerSize>& sizes,
                 const std::vector<LayerWeights>& weights, int threads)
    : settings_(settings),
      number_(number_of(settings.precision)),
      hidden_(settings.hidden),
      head_dim_(settings.head_dim),
      layers_(sizes.size()) {
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    layers_[i].size = sizes[i];
    widest_ = std::max(widest_, sizes[i].heads * head_dim_);
    if (sizes[i].mha) pack_attention(weights[i], layers_[i], threads);
    if (sizes[i].ffn) pack_ffn(weights[i], layers_[i], threads);
  }
  put_in_order();
}

// In a circle: after the last product of a chunk of rows comes the first of the next chunk.
void Encoder::put_in_order() {
  std::vector<Linear*> all;
  for (Layer& layer : layers_) {
    if (layer.size.heads > 0) all.push_back(&layer.qkv);
    if (layer.size.mha) all.push_back(&layer.out);
    for (std::size_t i = 0; i < layer.up.size(); ++i) all.insert(all.end(), {&layer.up[i], &layer.down[i]});
  }
  for (std::size_t i = 0; i < all.size(); ++i) all[i]->precede(*all[(i + 1) % all.size()]);
}

Linear Encoder::pack(const LinearSource& from, int64_t k, int64_t n, int threads) {
  Linear packed(from, k, n, settings_.precision, threads);
  packed_bytes_ += packed.bytes();
  weights_ += k * n;
  return packed;
}

Encoder::Norm Encoder::pack(const float* weight, const float* bias) {
  packed_bytes_ += 2 * hidden_ * static_cast<int64_t>(sizeof(float));
  return {{weight, weight + hidden_}, {bias, bias + hidden_}};
}

// 1 / sqrt(head_dim) goes into the queries' weights and bias.
void Encoder::pack_attention(const LayerWeights& from, Layer& to, int threads) {
  const int64_t width = to.size.heads * head_dim_;
  std::vector<float> scale(3 * width, 1.0f);
  std::fill(scale.begin(), scale.begin() + width, 1.0f / std::sqrt(static_cast<float>(head_dim_)));
  to.qkv = pack({from.w_qkv, 1, hidden_, from.b_qkv, scale.data()}, hidden_, 3 * width, threads);
  to.out = pack({from.w_out, hidden_, 1, from.b_out}, width, hidden_, threads);
  to.attention_norm = pack(from.attention_norm_weight, from.attention_norm_bias);
}

void Encoder::pack_ffn(const LayerWeights& from, Layer& to, int threads) {
  int64_t dim = 0;
  do {  // once even without a dim: the bias is still to be added
    const int64_t width = std::min(kFfnBlock, to.size.intermediate - dim);
    to.up.push_back(pack({from.w_up + dim * hidden_, 1, hidden_, from.b_up + dim}, hidden_, width, threads));
    to.down.push_back(pack({from.w_down + dim * hidden_, hidden_, 1, from.b_down}, width, hidden_, threads));
    dim += kFfnBlock;
  } while (dim < to.size.intermediate);
  to.ffn_norm = pack(from.ffn_norm_weight, from.ffn_norm_bias);
}

}  // namespace cofi::compact_encoder
