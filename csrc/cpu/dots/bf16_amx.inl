// What products of bf16 on AMX have in common, whatever the number of pieces (COFI_PIECES).
#include <immintrin.h>

#include <cstdint>

#include "cpu/dots/dots.h"
#include "cpu/dots/pieces.inl"

#define COFI_DOT(sums, rows, columns) _tile_dpbf16ps(sums, rows, columns)

namespace cofi::dots {
namespace {

typedef float Sums __attribute__((vector_size(64), may_alias));
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

inline Vector finish(Sums sum, const Rows&, int, const Columns&, int64_t, Vector start) { return start + sum; }

// As pack_rows, which goes by blocks of 16 rows and takes 1.4 (split) to 1.6 times (bf16) as long.
void convert(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to) {
  constexpr int64_t kNumbers = kLine / 2;
  for (int64_t r = 0; r < m; ++r) {
    const float* from = x + r * ldx;
    uint8_t* out = to.data + r * to.ld;
    for (int64_t i = 0; i < k; i += kNumbers) {
      __m512 low = _mm512_maskz_loadu_ps(first_lanes(k - i), from + i);
      __m512 high = _mm512_maskz_loadu_ps(first_lanes(k - i - 16), from + i + 16);
      for (int piece = 0; piece < COFI_PIECES; ++piece, out += kLine) {
        _mm512_storeu_si512(out, take_piece(low, high));
      }
    }
  }
}

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/amx.inl"
