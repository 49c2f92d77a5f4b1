// Reductions that vectorise: the order of the additions depends on the number of terms alone.
#pragma once

#include <cstdint>

namespace cofi {
namespace {

constexpr int kSums = 64;  // partial sums: enough registers to hide the latency of an addition

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

}  // namespace
}  // namespace cofi
