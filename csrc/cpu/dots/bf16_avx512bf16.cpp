// 32 registers of 16 sums: 24 of a tile, a row of B and a broadcast.
#include <immintrin.h>

#include <cstdint>

#include "cpu/dots/dots.h"

#define COFI_LANES 16
namespace cofi::dots {
namespace {

constexpr int kMaxPanels = 3;
constexpr int kMaxRows[] = {0, 14, 12, 8};  // of a tile of 1, 2, ... panels

typedef int32_t Bits __attribute__((vector_size(64)));
typedef float Sums __attribute__((vector_size(64)));
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

inline Sums dot(Sums sum, Bits a, Bits w) {
  return reinterpret_cast<Sums>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(w)));
}

inline Vector finish(Sums sum, const Rows&, int, const Columns&, int64_t, Vector start) { return start + sum; }

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/bf16.inl"

namespace cofi::dots {

extern const Kernels kBf16Native = kKernels;

}  // namespace cofi::dots
