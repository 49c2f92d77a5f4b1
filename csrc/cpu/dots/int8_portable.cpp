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

}  // namespace
}  // namespace cofi::dots

#include "cpu/dots/int8.inl"
#include "cpu/dots/tiles.inl"

namespace cofi::dots {

extern const Kernels kInt8Portable = {convert, multiply};

}  // namespace cofi::dots
