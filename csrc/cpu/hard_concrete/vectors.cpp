#include "cpu/hard_concrete/vectors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/hard_concrete/kernels.h"

namespace cofi::hard_concrete {
namespace {

// Orders as (loga, index) does: the bits of a float, turned so that they compare as integers, above the index.
uint64_t sort_key(float loga, int64_t index) {
  const float value = loga + 0.0f;  // -0 equals 0
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint64_t>(index);
}

}  // namespace

void deterministic_vector(const float* loga, int64_t size, float zero_point, float scale, float* z) {
  const Kernels& k = kernels();
  k.soft(loga, 0, size, scale, z);
  const double expected_zeros = static_cast<double>(size) - k.expected_live(loga, 0, size, zero_point);
  const double num_zeros = std::nearbyint(expected_zeros);  // half to even, the rounding mode every thread starts in
  if (!(num_zeros >= 1.0)) return;                          // nor where a NaN among the gates leaves no number
  std::vector<uint64_t> keys(static_cast<size_t>(size));
  for (int64_t i = 0; i < size; ++i) keys[i] = sort_key(loga[i], i);
  const auto last = keys.begin() + static_cast<int64_t>(num_zeros);
  std::nth_element(keys.begin(), last - 1, keys.end());
  for (auto key = keys.begin(); key != last; ++key) z[*key & 0xFFFFFFFFu] = 0.0f;
}

int32_t live_in_vector(const float* z, int64_t size, int32_t* indices) {
  int32_t count = 0;
  for (int64_t i = 0; i < size; ++i) {
    indices[count] = static_cast<int32_t>(i);  // overwritten unless live: without a branch to mispredict
    count += z[i] != 0.0f ? 1 : 0;
  }
  std::fill(indices + count, indices + size, -1);
  return count;
}

}  // namespace cofi::hard_concrete
