// The kernels of kernels.h, compiled once for each instruction set. Loops are written so that they vectorise.
#include <algorithm>
#include <cmath>

#include "common/math.inl"
#include "common/sums.inl"
#include "cpu/attention/kernels.h"
#include "cpu/counter_rng/factors.inl"

namespace cofi::attention {
namespace {

float largest(const float* x, int64_t n) {
  constexpr int kTops = 32;
  float top[kTops];
  std::fill(top, top + kTops, x[0]);
  int64_t i = 0;
  for (; i + kTops <= n; i += kTops) {
    for (int j = 0; j < kTops; ++j) top[j] = x[i + j] > top[j] ? x[i + j] : top[j];
  }
  for (; i < n; ++i) top[0] = std::max(top[0], x[i]);
  return *std::max_element(top, top + kTops);
}

void softmax(float* scores, const Block& block, float scale, const Dropout& dropout, float* lse, float* room) {
  const int64_t n = block.n;
  for (int64_t r = 0; r < block.m; ++r) {
    float* row = scores + r * block.ld;
    const float top = largest(row, n) * scale;
    for (int64_t j = 0; j < n; ++j) row[j] = exp(row[j] * scale - top);
    const float total = sum_of(n, [row](int64_t j) { return row[j]; });
    const float share = 1.0f / total;
    lse[r] = top + std::log(total);
    if (dropout.state) {
      counter_rng::dropout_factors(dropout, block.first + r * block.step, n, room);
      for (int64_t j = 0; j < n; ++j) row[j] *= share * room[j];
    } else {
      for (int64_t j = 0; j < n; ++j) row[j] *= share;
    }
  }
}

void softmax_backward(float* scores, float* dp, const Block& block, float scale, const Dropout& dropout,
                      const float* lse, const float* dc, const float* c, int64_t ld_c, int64_t width, float* room) {
  const int64_t n = block.n;
  if (!dropout.state) std::fill(room, room + n, 1.0f);
  for (int64_t r = 0; r < block.m; ++r) {
    float* row = scores + r * block.ld;
    float* gradient = dp + r * block.ld;
    const float *dc_row = dc + r * ld_c, *c_row = c + r * ld_c;
    const float delta = sum_of(width, [=](int64_t j) { return dc_row[j] * c_row[j]; });
    const float against = lse[r];
    if (dropout.state) counter_rng::dropout_factors(dropout, block.first + r * block.step, n, room);
    for (int64_t j = 0; j < n; ++j) {
      const float p = exp(row[j] * scale - against);
      const float kept = room[j];
      row[j] = p * kept;
      gradient[j] = p * (gradient[j] * kept - delta) * scale;
    }
  }
}

const Kernels kKernels = {softmax, softmax_backward};

}  // namespace
}  // namespace cofi::attention
