// 16 registers of 8 sums. The product of bytes saturates when two are added in 16 bits, so even and odd ones are
// multiplied apart: six instructions for 32 products, where fp32 takes four.
#include <immintrin.h>

#include <cstdint>

#include "cpu/dots/dots.h"

#define COFI_LANES 8
namespace cofi::dots {
namespace {

constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 4};

typedef int32_t Bits __attribute__((vector_size(32)));
typedef Bits Sums;
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));

inline Sums dot(Sums sum, Bits unsigned_bytes, Bits signed_bytes) {
  const auto a = reinterpret_cast<__m256i>(unsigned_bytes), w = reinterpret_cast<__m256i>(signed_bytes);
  const __m256i ones = _mm256_set1_epi16(1), low_bytes = _mm256_set1_epi16(0x00ff);
  const __m256i even = _mm256_maddubs_epi16(_mm256_and_si256(a, low_bytes), w);
  const __m256i odd = _mm256_maddubs_epi16(_mm256_andnot_si256(low_bytes, a), w);
  const __m256i both = _mm256_add_epi32(_mm256_madd_epi16(even, ones), _mm256_madd_epi16(odd, ones));
  return sum + reinterpret_cast<Sums>(both);
}

inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/int8.inl"
#include "cpu/dots/tiles.inl"

namespace cofi::dots {

extern const Kernels kInt8Avx2 = {convert, multiply};

}  // namespace cofi::dots
