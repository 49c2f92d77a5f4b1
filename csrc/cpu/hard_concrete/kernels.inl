// The kernels of kernels.h, compiled once for each instruction set.
#pragma once

#include <cstdint>

#include "common/math.inl"
#include "cpu/counter_rng/philox.inl"
#include "cpu/hard_concrete/kernels.h"

namespace cofi::hard_concrete {
namespace {

// The uniforms of n elements from `first`, where they are or made into `made`.
inline const float* uniforms(Noise noise, int64_t first, int64_t n, uint32_t* room, float* made) {
  if (noise.u != nullptr) return noise.u + first;
  const uint32_t* words = counter_rng::element_words(noise.state, first, n, room);
  for (int64_t i = 0; i < n; ++i) made[i] = counter_rng::uniform(words[i]);
  return made;
}

// One logarithm of u / (1 - u) is as accurate as the difference of two: 1 - u is exact for u of 23 bits.
inline float concrete(float loga, float u, float inverse) { return sigmoid((log(u / (1.0f - u)) + loga) * inverse); }
inline float stretch(float s) { return s * (kZeta - kGamma) + kGamma; }

// Calls body(first, size, u) for the blocks of [begin, end), u being the uniforms of a block: its noise stays in the
// first-level cache.
template <typename Body>
inline void for_blocks(Noise noise, int64_t begin, int64_t end, Body body) {
  alignas(64) uint32_t room[counter_rng::kRoom];
  float made[counter_rng::kRoom];
  for (int64_t first = begin, size; first < end; first += size) {
    size = counter_rng::elements_at_once(first, end - first);
    body(first, size, uniforms(noise, first, size, room, made));
  }
}

// One block each: loops over plain pointers vectorise, loops inside the lambdas below do not.
void sample_block(const float* loga, const float* u, int64_t n, float inverse, float* z) {
  for (int64_t i = 0; i < n; ++i) z[i] = clamp(stretch(concrete(loga[i], u[i], inverse)), 0.0f, 1.0f);
}

void sample_backward_block(const float* dz, const float* loga, const float* u, int64_t n, float inverse, float* dloga) {
  const float slope = (kZeta - kGamma) * inverse;
  for (int64_t i = 0; i < n; ++i) {
    const float s = concrete(loga[i], u[i], inverse);
    const float stretched = stretch(s);
    const float gradient = dz[i] * s * (1.0f - s) * slope;
    const float above = stretched > 0.0f ? gradient : 0.0f;  // two choices: one of a conjunction would be a branch
    dloga[i] = stretched < 1.0f ? above : 0.0f;
  }
}

void sample(const float* loga, Noise noise, int64_t begin, int64_t end, float temperature, float* z) {
  for_blocks(noise, begin, end, [=](int64_t first, int64_t size, const float* u) {
    sample_block(loga + first, u, size, 1.0f / temperature, z + first);
  });
}

void sample_backward(const float* dz, const float* loga, Noise noise, int64_t begin, int64_t end, float temperature,
                     float* dloga) {
  for_blocks(noise, begin, end, [=](int64_t first, int64_t size, const float* u) {
    sample_backward_block(dz + first, loga + first, u, size, 1.0f / temperature, dloga + first);
  });
}

inline float keep_one(float loga, float zero_point) {
  return clamp(sigmoid(loga - zero_point), kEpsilon, 1.0f - kEpsilon);
}

void keep(const float* loga, int64_t begin, int64_t end, float zero_point, float* p) {
  for (int64_t i = begin; i < end; ++i) p[i] = keep_one(loga[i], zero_point);
}

void keep_backward(const float* dp, const float* loga, int64_t begin, int64_t end, float zero_point, float* dloga) {
  for (int64_t i = begin; i < end; ++i) {
    const float e = exp(zero_point - loga[i]);
    const float p = 1.0f / (1.0f + e);
    const float gradient = dp[i] * p * (p * e);  // p e = 1 - p, which would lose its digits near p = 1
    const float above = p >= kEpsilon ? gradient : 0.0f;
    dloga[i] = p <= 1.0f - kEpsilon ? above : 0.0f;
  }
}

// Summed in double: the number of zeros is rounded from it, and must not depend on the order of the sum.
double expected_live(const float* loga, int64_t begin, int64_t end, float zero_point) {
  constexpr int64_t kLanes = 16;
  double lanes[kLanes] = {};
  for (; begin + kLanes <= end; begin += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] += static_cast<double>(keep_one(loga[begin + i], zero_point));
  }
  double total = 0.0;
  for (int64_t i = 0; i < kLanes; ++i) total += lanes[i];
  for (; begin < end; ++begin) total += static_cast<double>(keep_one(loga[begin], zero_point));
  return total;
}

void soft(const float* loga, int64_t begin, int64_t end, float scale, float* z) {
  for (int64_t i = begin; i < end; ++i) z[i] = sigmoid(loga[i] * scale);
}

constexpr Kernels kKernels{sample, sample_backward, keep, keep_backward, expected_live, soft};

}  // namespace
}  // namespace cofi::hard_concrete
