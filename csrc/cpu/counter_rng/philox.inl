// Philox4x32-10 for kernels that make their noise as they go. Include it in the files of one instruction set each
// (*_portable.cpp, *_avx2.cpp, *_avx512.cpp): all is local to the file, so no version leaks into another.
// The definition, and the meaning of state and index, is cofi_kernels/counter_rng/reference.py.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

namespace cofi::counter_rng {
namespace {

constexpr int kUniformBits = 23;
constexpr float kUniformStep = 1.0f / (1 << kUniformBits);
constexpr int kWordGroup = 16;  // first_words writes whole groups

// One 32-bit word per 64-bit lane. The upper halves may hold anything: the multiplication does not read them.
#if defined(__AVX512F__)
using Lanes = __m512i;
constexpr int kLanes = 8;
inline Lanes broadcast(uint64_t v) { return _mm512_set1_epi64(static_cast<long long>(v)); }
inline Lanes every_second(uint64_t first) {
  return _mm512_add_epi64(broadcast(first), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
}
inline Lanes multiply(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
inline Lanes high(Lanes a) { return _mm512_srli_epi64(a, 32); }
inline Lanes mix(Lanes a, Lanes b, Lanes c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
inline void store_interleaved(Lanes even, Lanes odd, uint32_t* r) {
  _mm512_storeu_si512(r, _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32)));
}
#elif defined(__AVX2__)
using Lanes = __m256i;
constexpr int kLanes = 4;
inline Lanes broadcast(uint64_t v) { return _mm256_set1_epi64x(static_cast<long long>(v)); }
inline Lanes every_second(uint64_t first) { return _mm256_add_epi64(broadcast(first), _mm256_setr_epi64x(0, 2, 4, 6)); }
inline Lanes multiply(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
inline Lanes high(Lanes a) { return _mm256_srli_epi64(a, 32); }
inline Lanes mix(Lanes a, Lanes b, Lanes c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
inline void store_interleaved(Lanes even, Lanes odd, uint32_t* r) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(r), _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA));
}
#else
using Lanes = uint64_t;
constexpr int kLanes = 1;
inline Lanes broadcast(uint64_t v) { return v; }
inline Lanes every_second(uint64_t first) { return first; }
inline Lanes multiply(Lanes a, Lanes b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
inline Lanes high(Lanes a) { return a >> 32; }
inline Lanes mix(Lanes a, Lanes b, Lanes c) { return a ^ b ^ c; }
inline void store_interleaved(Lanes even, Lanes odd, uint32_t* r) {
  r[0] = static_cast<uint32_t>(even);
  r[1] = static_cast<uint32_t>(odd);
}
#endif

inline Lanes first_word(Lanes index, uint64_t seed, uint64_t offset) {
  const Lanes m0 = broadcast(0xD2511F53u), m1 = broadcast(0xCD9E8D57u);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  Lanes c0 = index, c1 = high(index), c2 = broadcast(offset), c3 = broadcast(offset >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Lanes p0 = multiply(m0, c0), p1 = multiply(m1, c2);
    c0 = mix(high(p1), c1, broadcast(k0));
    c2 = mix(high(p0), c3, broadcast(k1));
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// The first Philox word of the elements begin, begin + 1, ... Writes n of them rounded up to a whole kWordGroup.
inline void first_words(const int64_t* state, int64_t begin, int64_t n, uint32_t* r) {
  const uint64_t seed = static_cast<uint64_t>(state[0]), offset = static_cast<uint64_t>(state[1]);
  for (int64_t i = 0; i < n; i += kWordGroup) {
    for (int j = 0; j < kWordGroup; j += 2 * kLanes) {
      const uint64_t index = static_cast<uint64_t>(begin + i + j);
      store_interleaved(first_word(every_second(index), seed, offset),
                        first_word(every_second(index + 1), seed, offset), r + i + j);
    }
  }
}

// Both as signed integers: no instruction set before AVX-512 converts or compares unsigned ones.
inline int32_t uniform_steps(uint32_t word) { return static_cast<int32_t>(word >> (32 - kUniformBits)); }
inline float uniform(uint32_t word) { return (static_cast<float>(uniform_steps(word)) + 0.5f) * kUniformStep; }

}  // namespace
}  // namespace cofi::counter_rng
