// Plain C++ on vectors of 4 sums.
#include <cstdint>
#include <cstring>

#define COFI_LANES 4
namespace cofi::int8 {
namespace {

constexpr int kMaxPanels = 1;
constexpr int kMaxRows[] = {0, 2};

typedef int32_t Sums __attribute__((vector_size(16)));
typedef float Vector __attribute__((vector_size(16), aligned(4), may_alias));

inline Sums dot(Sums sum, Sums unsigned_bytes, Sums signed_bytes) {
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
}  // namespace cofi::int8

#include "cpu/int8/kernels.inl"

namespace cofi::int8 {

extern const Kernels kPortable = kKernels;

}  // namespace cofi::int8
