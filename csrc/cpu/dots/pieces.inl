// Numbers into pieces of bf16, 32 at a time. Files for AVX512-BF16 include it.
#include <immintrin.h>

#include <cstdint>

namespace cofi::dots {
namespace {

inline __mmask16 first_lanes(int64_t n) {
  return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << (n > 0 ? n : 0)) - 1u);
}

inline __m512 without(__m512 x, __m256i piece) {
  return _mm512_sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(piece), 16)));
}

// The nearest bf16 of all numbers, `low` first; what they are short of the numbers stays in these.
inline __m512i take_piece(__m512& low, __m512& high) {
  const auto piece = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  low = without(low, _mm512_castsi512_si256(piece));
  high = without(high, _mm512_extracti64x4_epi64(piece, 1));
  return piece;
}

}  // namespace
}  // namespace cofi::dots
