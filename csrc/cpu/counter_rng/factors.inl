// What dropout multiplies with, for kernels of other families. Include it as philox.inl.
#pragma once

#include "cpu/counter_rng/dropout.h"
#include "cpu/counter_rng/philox.inl"

namespace cofi::counter_rng {
namespace {

// scale or 0 for each of the n elements from index `begin` on.
inline void dropout_factors(const Dropout& dropout, int64_t begin, int64_t n, float* out) {
  alignas(64) uint32_t room[kRoom];
  const int32_t threshold = dropout.threshold;  // as values, or `out` might alias them and nothing vectorises
  const float scale = dropout.scale;
  for (int64_t done = 0, size; done < n; done += size) {
    size = elements_at_once(begin + done, n - done);
    const uint32_t* words = element_words(dropout.state, begin + done, size, room);
    for (int64_t i = 0; i < size; ++i) out[done + i] = uniform_steps(words[i]) >= threshold ? scale : 0.0f;
  }
}

}  // namespace
}  // namespace cofi::counter_rng
