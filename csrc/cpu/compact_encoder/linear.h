// A matrix product of the encoder, its weights packed for the precision it runs in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/scratch.h"
#include "cpu/dots/dots.h"
#include "cpu/gemm/gemm.h"

namespace cofi::compact_encoder {

enum class Precision { fp32 = 0, int8 = 1, bf16 = 2 };

// What the factors of a product are converted to on this processor; none: they stay as they are. In fp32 that pays for
// many rows alone (sizes.h), and weights are packed both ways.
std::optional<dots::Number> number_of(Precision precision);

// K x N weights: element (k, n) at data[k * k_stride + n * n_stride], one of the strides being 1. bias and n_scale
// (factors of the columns, bias included) may be null.
struct LinearSource {
  const float* data;
  int64_t k_stride, n_stride;
  const float* bias = nullptr;
  const float* n_scale = nullptr;
};

// Columns of a product that one of `size` threads computes: whole panels.
struct Part {
  int64_t rank = 0, size = 1;

  int64_t first_panel(int64_t n) const { return gemm::panels_of(n) * rank / size; }
  int64_t last_panel(int64_t n) const { return gemm::panels_of(n) * (rank + 1) / size; }
  int64_t first(int64_t n) const { return std::min(n, first_panel(n) * gemm::kPanel); }
  int64_t last(int64_t n) const { return std::min(n, last_panel(n) * gemm::kPanel); }
};

// Rows a product reads: `rows` in fp32 and, where `converted` has data, the same converted.
struct Operand {
  const float* rows;
  int64_t ld;
  dots::Rows converted;
};

class Linear {
 public:
  Linear() = default;
  Linear(const LinearSource& from, int64_t k, int64_t n, Precision precision, int threads);

  // This part of c (m x n, ldc) = a W + bias, or of c += a W where `accumulate`.
  void multiply(const Operand& a, float* c, int64_t ldc, int64_t m, const Part& part, bool accumulate = false) const;

  // The product that is computed after this one; it must stay where it is.
  void precede(const Linear& next) { next_ = &next; }

  int64_t bytes() const;

 private:
  gemm::Panels panels_of(const Part& part) const {
    return {panels_.data() + gemm::packed_size(k_, part.first(n_)), k_ * gemm::kPanel};
  }

  std::optional<dots::Number> number_;
  int64_t k_ = 0, n_ = 0;
  std::vector<float, LineAligned<float>> panels_;
  std::vector<float> bias_;
  dots::PackedColumns columns_;
  const Linear* next_ = nullptr;
};

}  // namespace cofi::compact_encoder
