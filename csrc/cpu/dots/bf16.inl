// bf16: what of it does not depend on the instruction set.
#include "cpu/dots/bfloat16.h"
#include "cpu/dots/tiles.inl"

namespace cofi::dots {
namespace {

void convert(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to) {
  const int64_t padding = row_bytes(Number::bf16, k) - 2 * k;
  for (int64_t r = 0; r < m; ++r) {
    const float* from = x + r * ldx;
    uint8_t* row = to.data + r * to.ld;
    for (int64_t i = 0; i < k; ++i) {
      const uint16_t value = to_bfloat16(from[i]);
      std::memcpy(row + 2 * i, &value, 2);
    }
    std::fill(row + 2 * k, row + 2 * k + padding, uint8_t{0});  // row may be null where k is 0
  }
}

const Kernels kKernels = {convert, multiply};

}  // namespace
}  // namespace cofi::dots
