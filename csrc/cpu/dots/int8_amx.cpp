// 8-bit numbers on AMX.
#include <immintrin.h>

#include <cstdint>

#include "cpu/dots/dots.h"

namespace cofi::dots {
namespace {

typedef int32_t Sums __attribute__((vector_size(64), may_alias));
typedef float Vector __attribute__((vector_size(64), aligned(4), may_alias));

inline Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

}  // namespace
}  // namespace cofi::dots

#define COFI_PIECES 1
#define COFI_PAIRS {{0, 0}}
#define COFI_DOT(sums, rows, columns) _tile_dpbusd(sums, rows, columns)
#include "cpu/dots/amx.inl"
#include "cpu/dots/int8.inl"

namespace cofi::dots {

extern const Kernels kInt8Amx = {convert, multiply};

}  // namespace cofi::dots
