// The kernels of kernels.h, compiled once for each instruction set: a row is read from memory once and is in the first
// cache for every pass but that. Loops are written so that they vectorise.
#include <algorithm>
#include <cmath>

#include "common/sums.inl"
#include "cpu/counter_rng/factors.inl"
#include "cpu/masked_layer_norm/kernels.h"

namespace cofi::masked_layer_norm {
namespace {

// v = dropout(x) + residual. A dropped element is 0 even where x is not finite.
void add(const float* x, const float* residual, const float* factor, int64_t n, float* v) {
  if (factor == nullptr) {
    for (int64_t j = 0; j < n; ++j) v[j] = residual ? x[j] + residual[j] : x[j];
    return;
  }
  for (int64_t j = 0; j < n; ++j) {
    const float dropped = factor[j] != 0.0f ? x[j] * factor[j] : 0.0f;
    v[j] = residual ? dropped + residual[j] : dropped;
  }
}

void forward(const Norm& norm, const Dropout& dropout, const Rows& rows, float eps, float* y, float* mean, float* rstd,
             float* room) {
  const int64_t n = norm.hidden;
  const float *kept = norm.kept, *weight = norm.weight, *bias = norm.bias;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    float* v = y + t * n;
    if (dropout.state) counter_rng::dropout_factors(dropout, t * n, n, room);
    add(rows.x + t * n, rows.residual ? rows.residual + t * n : nullptr, dropout.state ? room : nullptr, n, v);
    const float centre = sum_of(n, [=](int64_t j) { return kept[j] != 0.0f ? v[j] : 0.0f; }) * norm.share;
    const float variance = sum_of(n,
                                  [=](int64_t j) {
                                    const float away = kept[j] != 0.0f ? v[j] - centre : 0.0f;
                                    return away * away;
                                  }) *
                           norm.share;
    const float scale = 1.0f / std::sqrt(variance + eps);
    for (int64_t j = 0; j < n; ++j) {
      const float out = (v[j] - centre) * scale * weight[j] + bias[j];
      v[j] = kept[j] != 0.0f ? out : 0.0f;
    }
    mean[t] = centre;
    rstd[t] = scale;
  }
}

void backward(const Norm& norm, const Dropout& dropout, const Rows& rows, const float* dy, const float* mean,
              const float* rstd, float* dx, float* dresidual, float* sum_dy_n, float* sum_dy, float* room) {
  const int64_t n = norm.hidden;
  const float *kept = norm.kept, *weight = norm.weight;
  float* const normed = room;
  float* const factor = dropout.state ? room + n : nullptr;
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    const float* g = dy + t * n;
    if (factor) counter_rng::dropout_factors(dropout, t * n, n, factor);
    add(rows.x + t * n, rows.residual ? rows.residual + t * n : nullptr, factor, n, normed);
    const float centre = mean[t], scale = rstd[t];
    for (int64_t j = 0; j < n; ++j) {
      const float value = kept[j] != 0.0f ? (normed[j] - centre) * scale : 0.0f;
      normed[j] = value;
      sum_dy_n[j] += g[j] * value;
      sum_dy[j] += g[j];
    }
    const float mean_g = sum_of(n, [=](int64_t j) { return g[j] * weight[j]; }) * norm.share;
    const float mean_gn = sum_of(n, [=](int64_t j) { return g[j] * weight[j] * normed[j]; }) * norm.share;
    float* out = dresidual ? dresidual + t * n : dx + t * n;
    for (int64_t j = 0; j < n; ++j) {
      const float dv = scale * (g[j] * weight[j] - mean_g - normed[j] * mean_gn);
      out[j] = kept[j] != 0.0f ? dv : 0.0f;
    }
    if (factor == nullptr && dresidual == nullptr) continue;
    float* dropped = dx + t * n;
    for (int64_t j = 0; j < n; ++j) dropped[j] = factor ? out[j] * factor[j] : out[j];
  }
}

const Kernels kKernels = {forward, backward};

}  // namespace
}  // namespace cofi::masked_layer_norm
