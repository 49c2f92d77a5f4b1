// The kernels of kernels.h, compiled once for each instruction set. Loops are written so that they vectorise.
#include <algorithm>
#include <cmath>

#include "common/math.inl"
#include "cpu/compact_encoder/kernels.h"

namespace cofi::compact_encoder {
namespace {

constexpr int kSums = 64;  // partial sums of a reduction: enough registers to hide the latency of an addition

// The error function within 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
inline float erf(float x) {
  const float size = x < 0.0f ? -x : x;
  const float t = 1.0f / (1.0f + 0.3275911f * size);
  float sum = 1.061405429f;
  sum = sum * t - 1.453152027f;
  sum = sum * t + 1.421413741f;
  sum = sum * t - 0.284496736f;
  sum = sum * t + 0.254829592f;
  const float value = 1.0f - sum * t * exp(-size * size);
  return x < 0.0f ? -value : value;
}

inline float gelu(float x) { return 0.5f * x * (1.0f + erf(x * 0.707106781f)); }

// 0.5 (1 + tanh(u)) = sigmoid(2 u)
inline float gelu_new(float x) { return x * sigmoid(1.59576912f * (x + 0.044715f * x * x * x)); }

inline float relu(float x) { return x < 0.0f ? 0.0f : x; }  // NaN passes

template <float (*function)(float)>
void over_rows(float* x, int64_t ld, int64_t m, int64_t n) {
  for (int64_t r = 0; r < m; ++r) {
    float* row = x + r * ld;
    for (int64_t j = 0; j < n; ++j) row[j] = function(row[j]);
  }
}

void activate(Activation activation, float* x, int64_t ld, int64_t m, int64_t n) {
  if (activation == Activation::gelu) return over_rows<gelu>(x, ld, m, n);
  if (activation == Activation::gelu_new) return over_rows<gelu_new>(x, ld, m, n);
  over_rows<relu>(x, ld, m, n);
}

// The order of the additions depends on n alone.
template <typename Term>
inline float sum_of(int64_t n, Term term) {
  float partial[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= n; i += kSums) {
    for (int j = 0; j < kSums; ++j) partial[j] += term(i + j);
  }
  for (int j = 0; i + j < n; ++j) partial[j] += term(i + j);
  for (int width = kSums / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) partial[j] += partial[j + width];
  }
  return partial[0];
}

float largest(const float* x, int64_t n) {
  constexpr int kLanes = 16;
  float top[kLanes];
  std::fill(top, top + kLanes, x[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
  }
  for (; i < n; ++i) top[0] = std::max(top[0], x[i]);
  return *std::max_element(top, top + kLanes);
}

void softmax(float* scores, int64_t ld, int64_t m, int64_t n) {
  for (int64_t r = 0; r < m; ++r) {
    float* row = scores + r * ld;
    const float top = largest(row, n);
    for (int64_t j = 0; j < n; ++j) row[j] = exp(row[j] - top);
    const float scale = 1.0f / sum_of(n, [row](int64_t j) { return row[j]; });
    for (int64_t j = 0; j < n; ++j) row[j] *= scale;
  }
}

void add_norm(float* x, float* y, const float* weight, const float* bias, float eps, int64_t m, int64_t n) {
  const float share = 1.0f / static_cast<float>(n);
  for (int64_t r = 0; r < m; ++r) {
    float* row = x + r * n;
    float* added = y + r * n;
    for (int64_t j = 0; j < n; ++j) added[j] += row[j];
    const float mean = sum_of(n, [added](int64_t j) { return added[j]; }) * share;
    const float variance = sum_of(n,
                                  [added, mean](int64_t j) {
                                    const float away = added[j] - mean;
                                    return away * away;
                                  }) *
                           share;
    const float scale = 1.0f / std::sqrt(variance + eps);
    for (int64_t j = 0; j < n; ++j) row[j] = (added[j] - mean) * scale * weight[j] + bias[j];
  }
}

const Kernels kKernels = {activate, softmax, add_norm};

}  // namespace
}  // namespace cofi::compact_encoder
