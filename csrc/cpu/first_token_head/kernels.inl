// One source for every instruction set. Both factors are read along k: every weight is read once for kMaxRows rows, and
// packing it for so few would cost more than the product.
#include "common/math.inl"
#include "common/vectors.inl"
#include "cpu/first_token_head/kernels.h"

namespace cofi::first_token_head {
namespace {

// A tile has at most so many sums, beside its rows and a weight: 24 of 32 registers, 8 of 16.
constexpr int kMaxRows = kFloats == 16 ? 6 : 2;
constexpr int kColumns = 4;

template <int Rows, int Columns>
void tile(const float* const* rows, const float* w, int64_t k, const float* bias, float* out, int64_t ldo) {
  Floats sum[Rows][Columns] = {};
  int64_t i = 0;
  for (; i + kFloats <= k; i += kFloats) {
    Floats x[Rows];
    for (int r = 0; r < Rows; ++r) x[r] = load(rows[r] + i);
    for (int j = 0; j < Columns; ++j) {
      const Floats weight = load(w + j * k + i);
      for (int r = 0; r < Rows; ++r) sum[r][j] += x[r] * weight;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int j = 0; j < Columns; ++j) {
      float value = sum_lanes(sum[r][j]);
      for (int64_t rest = i; rest < k; ++rest) value += rows[r][rest] * w[j * k + rest];
      out[r * ldo + j] = value + bias[j];
    }
  }
}

template <int Rows>
void strip(const float* const* rows, const float* w, int64_t k, const float* bias, int64_t first, int64_t last,
           float* out, int64_t ldo) {
  int64_t j = first;
  for (; j + kColumns <= last; j += kColumns) tile<Rows, kColumns>(rows, w + j * k, k, bias + j, out + j, ldo);
  for (; j < last; ++j) tile<Rows, 1>(rows, w + j * k, k, bias + j, out + j, ldo);
}

void multiply(const float* const* rows, int64_t m, const float* w, int64_t k, const float* bias, int64_t first,
              int64_t last, float* out, int64_t ldo) {
  int64_t r = 0;
  for (; r + kMaxRows <= m; r += kMaxRows) strip<kMaxRows>(rows + r, w, k, bias, first, last, out + r * ldo, ldo);
  for (; r < m; ++r) strip<1>(rows + r, w, k, bias, first, last, out + r * ldo, ldo);
}

// 2 sigmoid(2 x) - 1, within 3e-7
void tanh(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = 2.0f * sigmoid(2.0f * x[i]) - 1.0f;
}

const Kernels kKernels = {multiply, tanh};

}  // namespace
}  // namespace cofi::first_token_head
