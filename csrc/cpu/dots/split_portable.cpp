// What the pieces mean: their sum is the number again. For weights that were packed for AMX, which was then turned off.
#include <algorithm>
#include <cstring>

#include "cpu/dots/bfloat16.h"
#include "cpu/dots/dots.h"

namespace cofi::dots {
namespace {

constexpr int64_t kPieces = 3, kNumbers = kLine / 2;

// Number i of a row or, with 16 of them side by side, of a column.
float number(const uint8_t* pieces, int64_t i, int64_t side_by_side) {
  const uint8_t* line = pieces + i / kNumbers * kPieces * kLine * side_by_side;
  const int64_t at = i % kNumbers / 2 * kGroup * side_by_side + i % 2 * 2;
  float sum = 0.0f;
  for (int64_t piece = kPieces - 1; piece >= 0; --piece) {
    uint16_t value;
    std::memcpy(&value, line + piece * kLine * side_by_side + at, sizeof(value));
    sum += from_bfloat16(value);
  }
  return sum;
}

void convert(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to) {
  for (int64_t r = 0; r < m; ++r) {
    uint8_t* row = to.data + r * to.ld;
    if (k > 0) std::memset(row, 0, row_bytes(Number::split, k));
    for (int64_t i = 0; i < k; ++i) {
      float rest = x[r * ldx + i];
      for (int64_t piece = 0; piece < kPieces; ++piece) {
        const uint16_t value = take_bfloat16(rest);
        std::memcpy(row + (i / kNumbers * kPieces + piece) * kLine + i % kNumbers * 2, &value, sizeof(value));
      }
    }
  }
}

void multiply(const Rows& a, const Columns& b, int64_t first, int64_t last, float* c, int64_t ldc, int64_t m,
              bool accumulate) {
  for (int64_t column = first * kPanel; column < std::min(last * kPanel, b.n); ++column) {
    const uint8_t* pieces = b.panels + column / kPanel * b.stride + column % kPanel * kGroup;
    for (int64_t r = 0; r < m; ++r) {
      float sum = 0.0f;
      for (int64_t i = 0; i < b.k; ++i) sum += number(a.data + r * a.ld, i, 1) * number(pieces, i, kPanel);
      float& out = c[r * ldc + column];
      out = (accumulate ? out : b.bias[column]) + sum;
    }
  }
}

}  // namespace

extern const Kernels kSplitPortable = {convert, multiply};

}  // namespace cofi::dots
