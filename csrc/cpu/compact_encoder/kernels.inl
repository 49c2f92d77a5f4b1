// The kernels of kernels.h, compiled once for each instruction set. Loops are written so that they vectorise.
#include <algorithm>
#include <cmath>

#include "common/math.inl"
#include "common/sums.inl"
#include "common/vectors.inl"
#include "cpu/compact_encoder/kernels.h"

namespace cofi::compact_encoder {
namespace {

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

float largest(const float* x, int64_t n) {
  Floats top = all(x[0]);
  int64_t j = 0;
  for (; j + kFloats <= n; j += kFloats) top = larger(top, load(x + j));
  return largest_lane(larger(top, load_first(x + j, n - j, x[0])));
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

// The sum over a row of what `whole(j)` gives for the vector at j, and `part(j, n)` for the n values after the last
// one. Four sums hide the latency of an addition.
template <typename Whole, typename Part>
inline float sum_row(int64_t n, Whole whole, Part part) {
  Floats sum[4] = {};
  int64_t j = 0;
  for (; j + 4 * kFloats <= n; j += 4 * kFloats) {
    for (int i = 0; i < 4; ++i) sum[i] += whole(j + i * kFloats);
  }
  for (; j + kFloats <= n; j += kFloats) sum[0] += whole(j);
  return sum_lanes(((sum[0] + sum[1]) + (sum[2] + sum[3])) + part(j, n - j));
}

// x += y over a row; returns the sum.
float add_row(float* x, const float* y, int64_t n) {
  const auto whole = [=](int64_t j) {
    const Floats value = load(x + j) + load(y + j);
    store(x + j, value);
    return value;
  };
  const auto part = [=](int64_t j, int64_t left) {
    const Floats value = load_first(x + j, left, 0.0f) + load_first(y + j, left, 0.0f);
    store_first(x + j, value, left);
    return value;
  };
  return sum_row(n, whole, part);
}

float squares_around(const float* x, float mean, int64_t n) {
  const auto square = [mean](Floats value) {
    const Floats away = value - all(mean);
    return away * away;
  };
  return sum_row(
      n, [=](int64_t j) { return square(load(x + j)); },
      [=](int64_t j, int64_t left) { return square(load_first(x + j, left, mean)); });
}

void scale_row(float* x, float mean, float scale, const float* weight, const float* bias, int64_t n) {
  const Floats centre = all(mean), factor = all(scale);
  int64_t j = 0;
  for (; j + kFloats <= n; j += kFloats) {
    store(x + j, (load(x + j) - centre) * factor * load(weight + j) + load(bias + j));
  }
  const int64_t left = n - j;
  const Floats normed = (load_first(x + j, left, mean) - centre) * factor;
  store_first(x + j, normed * load_first(weight + j, left, 0.0f) + load_first(bias + j, left, 0.0f), left);
}

void add_norm(float* x, const float* y, const float* weight, const float* bias, float eps, int64_t m, int64_t n) {
  const float share = 1.0f / static_cast<float>(n);
  for (int64_t r = 0; r < m; ++r) {
    float* row = x + r * n;
    const float mean = add_row(row, y + r * n, n) * share;
    const float variance = squares_around(row, mean, n) * share;
    scale_row(row, mean, 1.0f / std::sqrt(variance + eps), weight, bias, n);
  }
}

const Kernels kKernels = {activate, softmax, add_norm};

}  // namespace
}  // namespace cofi::compact_encoder
