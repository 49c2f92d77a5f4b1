// Philox4x32-10 on the device, for this family's kernels and for others that make their noise as they go.
// The definition, and the meaning of state and index, is cofi_kernels/counter_rng/reference.py.
#pragma once

#include <cstdint>

namespace cofi::counter_rng {

constexpr int kUniformBits = 23;

// The first Philox word of the element `index`.
__device__ __forceinline__ uint32_t first_word(uint64_t seed, uint64_t offset, uint64_t index) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(offset), c3 = static_cast<uint32_t>(offset >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(c0) * 0xD2511F53u, p1 = static_cast<uint64_t>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

__device__ __forceinline__ int32_t uniform_steps(uint32_t word) {
  return static_cast<int32_t>(word >> (32 - kUniformBits));
}

__device__ __forceinline__ float uniform(uint32_t word) {
  return (static_cast<float>(uniform_steps(word)) + 0.5f) * (1.0f / (1 << kUniformBits));
}

}  // namespace cofi::counter_rng
