// Matrix products by instructions that add the products of 32 bits' worth of K to a 32-bit sum: four 8-bit numbers or
// two bf16. Rows of A are converted as they come, columns of B once.
//
// bf16:  both factors rounded to nearest, sums in fp32.
// split: fp32 for AMX. A number is the sum of three bf16, exactly: the nearest to it, the nearest to what that leaves,
//        and the rest. Six of the nine products of their pieces are added up, the others are below 2^-25 of the whole.
//        What is not finite, or beyond bf16's range (3.39e38), gives NaN; numbers below 1e-33 lose digits.
// int8: exact sums of integers, for K up to 66,000 (255 * 127 * K < 2^31), which callers see to; nothing is calibrated.
//   A[r, k] ~ low[r] + scale[r] q[r, k]      q in [0, 255], per row: from its smallest to its largest value
//   B[k, n] ~ scale[n] w[k, n]               w in [-127, 127], per column: its largest size is 127
//   C[r, n] = scale[n] (scale[r] sum_k q w + low[r] sum_k w) + bias[n]
#pragma once

#include <cstdint>
#include <vector>

#include "common/scratch.h"

namespace cofi::dots {

enum class Number { int8, bf16, split };

constexpr int64_t kPanel = 16;  // columns side by side in memory
constexpr int64_t kGroup = 4;   // bytes of K that one instruction takes for a column
constexpr int64_t kLine = 64;   // bytes of K that rows and panels are padded to, with zeros: 16 groups

inline int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }
inline int64_t size_of(Number number) { return number == Number::int8 ? 1 : 2; }
inline int64_t groups_of(Number number, int64_t k) { return (k * size_of(number) + kGroup - 1) / kGroup; }

inline int64_t pieces_of(Number number) { return number == Number::split ? 3 : 1; }
inline int64_t lines_of(Number number, int64_t k) { return (k * size_of(number) + kLine - 1) / kLine; }

// Bytes of a converted row: line by line, of each all pieces.
inline int64_t row_bytes(Number number, int64_t k) { return lines_of(number, k) * pieces_of(number) * kLine; }

// Where B comes from: B(k, n) = data[k * k_stride + n * n_stride] * n_scale[n], no factor where n_scale is null.
struct Source {
  const float* data;
  int64_t k_stride, n_stride;
  const float* n_scale = nullptr;
};

// B packed: byte j of K of piece p of column n is in block (j / 64) pieces + p of 1,024 bytes of its panel, and there
// at (j / 4 % 16) 64 + (n % 16) 4 + j % 4. In int8 a column with a value that is not finite has NaN for a scale, and
// gives NaN.
struct Columns {
  int64_t k, n;
  int64_t groups, lines, stride;  // of a panel: groups and lines up to K; bytes
  const uint8_t* panels;
  const float* bias;         // of whole panels
  const float *scale, *sum;  // int8 only, of whole panels; sum: scale[n] * sum_k w

  Columns(Number number, int64_t k, int64_t n)
      : k(k), n(n), groups(groups_of(number, k)), lines(lines_of(number, k)), stride(row_bytes(number, k) * kPanel) {}
};

// Columns that are kept, in memory of their own.
class PackedColumns {
 public:
  PackedColumns() = default;
  PackedColumns(Number number, const Source& b, int64_t k, int64_t n, const float* bias, int threads);

  Columns view() const;

  int64_t bytes() const {
    return static_cast<int64_t>(panels_.size() + (bias_.size() + scale_.size() + sum_.size()) * sizeof(float));
  }

 private:
  Number number_ = Number::bf16;
  int64_t k_ = 0, n_ = 0;
  std::vector<uint8_t, LineAligned<uint8_t>> panels_;
  std::vector<float> bias_, scale_, sum_;
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

extern const Kernels kInt8Portable, kInt8Avx2, kInt8Vnni, kInt8Amx;
extern const Kernels kBf16Portable, kBf16Avx2, kBf16Avx512, kBf16Native, kBf16Amx;
extern const Kernels kSplitPortable, kSplitAmx;

// Rows of A or columns of B as they lie in memory, `ld` apart along K or, where `across`, along the units:
// unit(n, k) = data[across ? k * ld + n : n * ld + k] * k_scale[k] * n_scale[n]; no factors where these are null.
struct Units {
  const float* data;
  int64_t ld;
  bool across;
  int64_t k, n;
  const float* k_scale = nullptr;
  const float* n_scale = nullptr;
};

// Units [first, last), first a multiple of 16, in bf16 or split: into panels (`to` as Columns::panels), or as rows `ld`
// bytes apart. Only with has_bf16().
void pack_panels(Number number, const Units& from, int64_t first, int64_t last, uint8_t* to);
void pack_rows(Number number, const Units& from, int64_t first, int64_t last, uint8_t* to, int64_t ld);

// The version for the instructions in use. int8 is twice as fast as fp32 and more with has_vnni(), 1.2 times with AVX2;
// bf16 is faster with has_bf16() or has_amx(), split with has_amx() alone.
const Kernels& kernels(Number number);

}  // namespace cofi::dots
