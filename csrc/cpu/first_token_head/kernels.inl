// One source for every instruction set: COFI_LANES floats a vector. Both factors are read along k: every weight is read
// once for kMaxRows rows, and packing it for so few would cost more than the product.
#include <algorithm>

#include "common/math.inl"
#include "cpu/first_token_head/kernels.h"

namespace cofi::first_token_head {
namespace {

constexpr int kLanes = COFI_LANES;
constexpr int kColumns = 4;  // of a tile

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

inline float total(Vector sum) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) sum[lane] += sum[lane + width];
  }
  return sum[0];
}

template <int Rows, int Columns>
void tile(const float* const* rows, const float* w, int64_t k, const float* bias, float* out, int64_t ldo) {
  Vector sum[Rows][Columns] = {};
  int64_t i = 0;
  for (; i + kLanes <= k; i += kLanes) {
    Vector x[Rows];
    for (int r = 0; r < Rows; ++r) x[r] = *reinterpret_cast<const Vector*>(rows[r] + i);
    for (int j = 0; j < Columns; ++j) {
      const Vector weight = *reinterpret_cast<const Vector*>(w + j * k + i);
      for (int r = 0; r < Rows; ++r) sum[r][j] += x[r] * weight;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int j = 0; j < Columns; ++j) {
      float value = total(sum[r][j]);
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
