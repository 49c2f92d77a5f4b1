// 16 registers of 8 sums. The instruction for bytes saturates when two products are added in 16 bits, so even and odd
// bytes are widened first: two multiplications for 32 products, where fp32 takes four. Widening is shared: of weights
// by the rows of a tile, of activations by the vectors of a panel.
#include <immintrin.h>

#include <cstdint>

#include "cpu/dots/dots.h"

#define COFI_LANES 8
namespace cofi::dots {
namespace {

constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 3};  // with 4 a sum is spilled: 60 instead of 62 G products a second on Zen 3

typedef int32_t Bits __attribute__((vector_size(32)));
typedef Bits Sums;
typedef float Vector __attribute__((vector_size(32), aligned(4), may_alias));

inline Sums dot(Sums sum, Bits unsigned_bytes, Bits signed_bytes) {
  const auto a = reinterpret_cast<__m256i>(unsigned_bytes), w = reinterpret_cast<__m256i>(signed_bytes);
  const __m256i a_even = _mm256_and_si256(a, _mm256_set1_epi16(0x00ff)), a_odd = _mm256_srli_epi16(a, 8);
  const __m256i w_even = _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), w_odd = _mm256_srai_epi16(w, 8);
  return sum + reinterpret_cast<Sums>(_mm256_madd_epi16(a_even, w_even)) +
         reinterpret_cast<Sums>(_mm256_madd_epi16(a_odd, w_odd));
}

inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/int8.inl"
#include "cpu/dots/tiles.inl"

namespace cofi::dots {

extern const Kernels kInt8Avx2 = {convert, multiply};

}  // namespace cofi::dots
