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
constexpr int64_t kBlockWords = 4;  // words of one Philox block: those of four consecutive elements

// One 32-bit word per 64-bit lane, a Philox block in each. The upper halves may hold anything: the multiplication does
// not read them. `consecutive` orders the blocks as `store_transposed`, which works within 128 bits, needs them.
#if defined(__AVX512F__)
using Lanes = __m512i;
constexpr int kLanes = 8;
inline Lanes broadcast(uint64_t v) { return _mm512_set1_epi64(static_cast<long long>(v)); }
inline Lanes consecutive(uint64_t first) {
  return _mm512_add_epi64(broadcast(first), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
}
inline Lanes multiply(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
inline Lanes high(Lanes a) { return _mm512_srli_epi64(a, 32); }
inline Lanes mix(Lanes a, Lanes b, Lanes c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
inline Lanes pair(Lanes even, Lanes odd) { return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32)); }
inline void store_transposed(Lanes c0, Lanes c1, Lanes c2, Lanes c3, uint32_t* words) {
  const Lanes front = pair(c0, c1), back = pair(c2, c3);
  _mm512_storeu_si512(words, _mm512_unpacklo_epi64(front, back));
  _mm512_storeu_si512(words + 16, _mm512_unpackhi_epi64(front, back));
}
#elif defined(__AVX2__)
using Lanes = __m256i;
constexpr int kLanes = 4;
inline Lanes broadcast(uint64_t v) { return _mm256_set1_epi64x(static_cast<long long>(v)); }
inline Lanes consecutive(uint64_t first) { return _mm256_add_epi64(broadcast(first), _mm256_setr_epi64x(0, 2, 1, 3)); }
inline Lanes multiply(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
inline Lanes high(Lanes a) { return _mm256_srli_epi64(a, 32); }
inline Lanes mix(Lanes a, Lanes b, Lanes c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
inline Lanes pair(Lanes even, Lanes odd) { return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA); }
inline void store_transposed(Lanes c0, Lanes c1, Lanes c2, Lanes c3, uint32_t* words) {
  const Lanes front = pair(c0, c1), back = pair(c2, c3);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), _mm256_unpacklo_epi64(front, back));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + 8), _mm256_unpackhi_epi64(front, back));
}
#else
using Lanes = uint64_t;
constexpr int kLanes = 1;
inline Lanes broadcast(uint64_t v) { return v; }
inline Lanes consecutive(uint64_t first) { return first; }
inline Lanes multiply(Lanes a, Lanes b) { return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu); }
inline Lanes high(Lanes a) { return a >> 32; }
inline Lanes mix(Lanes a, Lanes b, Lanes c) { return a ^ b ^ c; }
inline void store_transposed(Lanes c0, Lanes c1, Lanes c2, Lanes c3, uint32_t* words) {
  words[0] = static_cast<uint32_t>(c0);
  words[1] = static_cast<uint32_t>(c1);
  words[2] = static_cast<uint32_t>(c2);
  words[3] = static_cast<uint32_t>(c3);
}
#endif

constexpr int64_t kWordGroup = kLanes * kBlockWords;  // words made at once

// The words of kLanes Philox blocks from block `first` on.
inline void word_group(uint64_t first, uint64_t seed, uint64_t offset, uint32_t* words) {
  const Lanes m0 = broadcast(0xD2511F53u), m1 = broadcast(0xCD9E8D57u);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  const Lanes block = consecutive(first);
  Lanes c0 = block, c1 = high(block), c2 = broadcast(offset), c3 = broadcast(offset >> 32);
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
  store_transposed(c0, c1, c2, c3, words);
}

// Where the words of the elements begin, begin + 1, ... are in `room`, which they are made into: n of them, inside
// whole groups of words from the start of begin's Philox block. Kernels take kRoom words and n <= elements_at_once.
inline const uint32_t* element_words(const int64_t* state, int64_t begin, int64_t n, uint32_t* room) {
  const uint64_t seed = static_cast<uint64_t>(state[0]), offset = static_cast<uint64_t>(state[1]);
  const int64_t skipped = begin % kBlockWords;
  uint64_t block = static_cast<uint64_t>(begin / kBlockWords);
  for (int64_t i = 0; i < skipped + n; i += kWordGroup, block += kLanes) word_group(block, seed, offset, room + i);
  return room + skipped;
}

constexpr int64_t kRoom = 512;  // words: 2 KiB, in the first-level cache
static_assert(kRoom % kWordGroup == 0);

// How many of the `left` elements from `begin` on fit into kRoom. The next ones then start a Philox block.
inline int64_t elements_at_once(int64_t begin, int64_t left) {
  const int64_t fitting = kRoom - begin % kBlockWords;
  return left < fitting ? left : fitting;
}

// Both as signed integers: no instruction set before AVX-512 converts or compares unsigned ones.
inline int32_t uniform_steps(uint32_t word) { return static_cast<int32_t>(word >> (32 - kUniformBits)); }
inline float uniform(uint32_t word) { return (static_cast<float>(uniform_steps(word)) + 0.5f) * kUniformStep; }

}  // namespace
}  // namespace cofi::counter_rng
