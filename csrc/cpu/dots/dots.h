// Matrix products in low precision, by instructions that add the products of 32 bits' worth of K to a 32-bit sum: four
// 8-bit numbers or two bf16. Rows of A are converted as they come, columns of B once.
//
// bf16: both factors rounded to nearest, sums in fp32.
// int8: exact sums of integers; nothing is calibrated.
//   A[r, k] ~ low[r] + scale[r] q[r, k]      q in [0, 255], per row: from its smallest to its largest value
//   B[k, n] ~ scale[n] w[k, n]               w in [-127, 127], per column: its largest size is 127
//   C[r, n] = scale[n] (scale[r] sum_k q w + low[r] sum_k w) + bias[n]
#pragma once

#include <cstdint>
#include <vector>

#include "common/scratch.h"

namespace cofi::dots {

enum class Number { int8, bf16 };

constexpr int64_t kPanel = 16;         // columns side by side in memory
constexpr int64_t kGroup = 4;          // bytes of K that one instruction takes for a column
constexpr int64_t kMostDepth = 66000;  // of int8: 255 * 127 * K < 2^31

inline int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }
inline int64_t size_of(Number number) { return number == Number::int8 ? 1 : 2; }
inline int64_t groups_of(Number number, int64_t k) { return (k * size_of(number) + kGroup - 1) / kGroup; }

// Bytes from one converted row to the next: whole vectors, what is beyond K is 0.
inline int64_t row_bytes(Number number, int64_t k) { return (k * size_of(number) + 31) / 32 * 32; }

// Where B comes from: B(k, n) = data[k * k_stride + n * n_stride] * n_scale[n], no factor where n_scale is null.
struct Source {
  const float* data;
  int64_t k_stride, n_stride;
  const float* n_scale = nullptr;
};

// B packed: byte j of K of column n is at panels[((n / 16) groups + j / 4) 64 + (n % 16) 4 + j % 4]. In int8 a column
// with a value that is not finite has NaN for a scale, and gives NaN.
class Columns {
 public:
  Columns() = default;
  Columns(Number number, const Source& b, int64_t k, int64_t n, const float* bias, int threads);

  int64_t k = 0, n = 0, groups = 0;
  std::vector<uint8_t, LineAligned<uint8_t>> panels;
  std::vector<float> bias;        // of whole panels
  std::vector<float> scale, sum;  // int8 only, of whole panels; sum: scale[n] * sum_k w

  int64_t bytes() const {
    return static_cast<int64_t>(panels.size() + (bias.size() + scale.size() + sum.size()) * sizeof(float));
  }
};

// A converted: rows `ld` bytes apart; scale and low belong to int8.
struct Rows {
  uint8_t* data;
  int64_t ld;
  float *scale, *low;

  Rows from(int64_t row) const { return {data + row * ld, ld, scale + row, low + row}; }
};

struct Kernels {
  // to = converted x (m x k, ldx apart). In int8 a row with a value that is not finite gets NaN for a scale, and gives
  // NaN.
  void (*convert)(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to);
  // Panels [first, last) of C (M x N, ldc) = A B + bias, or of C += A B without bias where `accumulate`.
  void (*multiply)(const Rows& a, const Columns& b, int64_t first, int64_t last, float* c, int64_t ldc, int64_t m,
                   bool accumulate);
};

extern const Kernels kInt8Portable, kInt8Avx2, kInt8Vnni;
extern const Kernels kBf16Portable, kBf16Avx2, kBf16Avx512, kBf16Native;

// The version for the instructions in use. Only with has_vnni() and has_bf16() are they faster than fp32.
const Kernels& kernels(Number number);

}  // namespace cofi::dots
