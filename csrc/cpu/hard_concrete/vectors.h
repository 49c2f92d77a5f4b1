// What works on whole vectors of gates: vector v is [offsets[v], offsets[v + 1]).
#pragma once

#include <cstdint>

namespace cofi::hard_concrete {

// Zeroes the round(size - sum P(z > 0)) gates of lowest loga (half to even, ties from the front) of one vector of
// `size` gates; the others become sigmoid(scale loga).
void deterministic_vector(const float* loga, int64_t size, float zero_point, float scale, float* z);

// Positions with z != 0, ascending, at the front of `indices`, then -1. Returns how many they are.
int32_t live_in_vector(const float* z, int64_t size, int32_t* indices);

}  // namespace cofi::hard_concrete
