// 32 registers of 16 sums: 24 of a tile, a row of B and a broadcast.
#include <immintrin.h>

#include <cstdint>

#define COFI_LANES 16
namespace cofi::int8 {
namespace {

constexpr int kMaxPanels = 3;
constexpr int kMaxRows[] = {0, 14, 12, 8};  // of a tile of 1, 2, ... panels

typedef int32_t Sums __attribute__((vector_size(64)));
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

inline Sums dot(Sums sum, Sums unsigned_bytes, Sums signed_bytes) {
  return reinterpret_cast<Sums>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum),
                                                    reinterpret_cast<__m512i>(unsigned_bytes),
                                                    reinterpret_cast<__m512i>(signed_bytes)));
}

inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

}  // namespace
}  // namespace cofi::int8

#include "cpu/int8/kernels.inl"

namespace cofi::int8 {

extern const Kernels kVnni = kKernels;

}  // namespace cofi::int8
