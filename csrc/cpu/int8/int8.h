// Matrix products of 8-bit numbers, exact in 32 bits: rows of A are quantized as they come, columns of B once.
//
//   A[r, k] ~ low[r] + scale[r] q[r, k]      q in [0, 255], per row: from its smallest to its largest value
//   B[k, n] ~ scale[n] w[k, n]               w in [-127, 127], per column: its largest size is 127
//   C[r, n] = scale[n] (scale[r] sum_k q w + low[r] sum_k w) + bias[n]
//
// The sums are below 2^31 for K up to 66,000. Nothing is calibrated.
#pragma once

#include <cstdint>
#include <vector>

namespace cofi::int8 {

constexpr int64_t kPanel = 16;         // columns side by side in memory
constexpr int64_t kGroup = 4;          // values of K that one instruction takes
constexpr int64_t kMostDepth = 66000;  // 255 * 127 * K < 2^31

inline int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }
inline int64_t groups_of(int64_t k) { return (k + kGroup - 1) / kGroup; }

// Bytes from one quantized row to the next: whole vectors, what is beyond K is 0.
inline int64_t row_bytes(int64_t k) { return (k + 15) / 16 * 16; }

// Where B comes from: B(k, n) = data[k * k_stride + n * n_stride] * n_scale[n], no factor where n_scale is null.
struct Source {
  const float* data;
  int64_t k_stride, n_stride;
  const float* n_scale = nullptr;
};

// B packed: element (k, n) at panels[((n / 16) groups_of(K) + k / 4) 64 + (n % 16) 4 + k % 4]. A column with a value
// that is not finite has NaN for a scale, and gives NaN.
class Columns {
 public:
  Columns() = default;
  Columns(const Source& b, int64_t k, int64_t n, const float* bias, int threads);

  int64_t k = 0, n = 0;
  std::vector<int8_t> panels;
  std::vector<float> scale, sum, bias;  // of whole panels; sum: scale[n] * sum_k w

  int64_t bytes() const { return static_cast<int64_t>(panels.size() + 3 * scale.size() * sizeof(float)); }
};

// A quantized: m rows `ld` bytes apart.
struct Rows {
  uint8_t* q;
  int64_t ld;
  float *scale, *low;

  Rows from(int64_t row) const { return {q + row * ld, ld, scale + row, low + row}; }
};

struct Kernels {
  // to = quantized x (m x k, ldx apart). A row with a value that is not finite gets NaN for a scale, and gives NaN.
  void (*quantize)(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to);
  // Panels [first, last) of C (M x N, ldc) = A B + bias, or of C += A B without bias where `accumulate`.
  void (*multiply)(const Rows& a, const Columns& b, int64_t first, int64_t last, float* c, int64_t ldc, int64_t m,
                   bool accumulate);
};

extern const Kernels kPortable, kAvx2, kVnni;

// The version for the instructions in use: AVX-512 VNNI, or AVX2 (slower than its fp32), or plain C++.
const Kernels& kernels();

}  // namespace cofi::int8
