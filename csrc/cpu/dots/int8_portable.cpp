// Plain C++ on vectors of 4 sums.
#include <cstdint>
#include <cstring>

#include "cpu/dots/dots.h"

#define COFI_LANES 4
namespace cofi::dots {
namespace {

constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 2};

typedef int32_t Bits __attribute__((vector_size(16)));
typedef Bits Sums;
typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));

inline Sums dot(Sums sum, Bits unsigned_bytes, Bits signed_bytes) {
  uint8_t a[16];
  int8_t w[16];
  std::memcpy(a, &unsigned_bytes, sizeof(a));
  std::memcpy(w, &signed_bytes, sizeof(w));
  for (int lane = 0; lane < 4; ++lane) {
    for (int j = 0; j < 4; ++j) sum[lane] += a[4 * lane + j] * w[4 * lane + j];
  }
  return sum;
}

inline Vector multiply_add(Vector a, Vector b, Vector c) { return a * b + c; }

inline Vector finish(Sums sum, const Rows& a, int row, const Columns& b, int64_t column, Vector start) {
  const Vector factor = *reinterpret_cast<const Vector*>(b.scale.data() + column);
  const Vector total = *reinterpret_cast<const Vector*>(b.sum.data() + column);
  const Vector product = __builtin_convertvector(sum, Vector);
  return multiply_add(product, factor * a.scale[row], multiply_add(total, Vector{} + a.low[row], start));
}

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/int8.inl"

namespace cofi::dots {

extern const Kernels kInt8Portable = kKernels;

}  // namespace cofi::dots
