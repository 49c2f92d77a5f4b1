// Philox4x32-10 on the device, for this family's kernels and for others that make their noise as they go.
// The definition, and the meaning of state and index, is cofi_kernels/counter_rng/reference.py.
#pragma once

#include <cstdint>

namespace cofi::counter_rng {

constexpr int kUniformBits = 23;
constexpr int kBlockWords = 4;  // words of one Philox block: those of four consecutive elements

struct Words {
  uint32_t of[kBlockWords];
};

// The words of the elements 4 block, ..., 4 block + 3.
__device__ __forceinline__ Words element_words(uint64_t seed, uint64_t offset, uint64_t block) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32);
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
  return {{c0, c1, c2, c3}};
}

__device__ __forceinline__ int32_t uniform_steps(uint32_t word) {
  return static_cast<int32_t>(word >> (32 - kUniformBits));
}

__device__ __forceinline__ float uniform(uint32_t word) {
  return (static_cast<float>(uniform_steps(word)) + 0.5f) * (1.0f / (1 << kUniformBits));
}

}  // namespace cofi::counter_rng
