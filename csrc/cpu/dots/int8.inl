// 8-bit numbers: what of them does not depend on the instruction set. `multiply_add` is a b + c; left to the compiler,
// tiles of different heights fuse it or not, and bits would depend on how rows are shared out.
#include <limits>

#include "cpu/dots/tiles.inl"

namespace cofi::dots {
namespace {

constexpr float kSmallestRange = 1e-30f;  // of a row's values; below it the row is taken to be constant

struct Range {
  float low, high;
  bool finite;
};

Range range_of(const float* x, int64_t n) {
  constexpr int kWide = 32;
  if (n < kWide) {
    Range range{n > 0 ? x[0] : 0.0f, n > 0 ? x[0] : 0.0f, true};
    for (int64_t i = 0; i < n; ++i) {
      range = {std::min(range.low, x[i]), std::max(range.high, x[i]), range.finite && x[i] - x[i] == 0.0f};
    }
    return range;
  }
  float low[kWide], high[kWide], odd[kWide] = {};  // odd: 0, or NaN after a value that is not finite
  std::copy(x, x + kWide, low);
  std::copy(x, x + kWide, high);
  for (int64_t i = 0; i < n; i += kWide) {
    const float* from = x + std::min(i, n - kWide);  // the last block may take values again
    for (int j = 0; j < kWide; ++j) {
      low[j] = from[j] < low[j] ? from[j] : low[j];
      high[j] = from[j] > high[j] ? from[j] : high[j];
      odd[j] += from[j] - from[j];
    }
  }
  Range range{low[0], high[0], true};
  for (int j = 0; j < kWide; ++j) {
    range = {std::min(range.low, low[j]), std::max(range.high, high[j]), range.finite && odd[j] == 0.0f};
  }
  return range;
}

void convert(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to) {
  for (int64_t r = 0; r < m; ++r) {
    const float* row = x + r * ldx;
    uint8_t* q = to.data + r * to.ld;
    const Range range = range_of(row, k);
    const float width = range.high - range.low;
    std::memset(q + k, 0, row_bytes(Number::int8, k) - k);
    to.low[r] = range.low;
    if (!range.finite || !(width < std::numeric_limits<float>::infinity()) || width < kSmallestRange) {
      std::memset(q, 0, k);
      to.scale[r] = range.finite && width < kSmallestRange ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    to.scale[r] = width / 255.0f;
    const float factor = 255.0f / width, shift = range.low;
    for (int64_t i = 0; i < k; ++i) q[i] = static_cast<uint8_t>(static_cast<int>((row[i] - shift) * factor + 0.5f));
  }
}

const Kernels kKernels = {convert, multiply};

}  // namespace
}  // namespace cofi::dots
