#include "cpu/compact_encoder/linear.h"

#include "common/cpu_features.h"

namespace cofi::compact_encoder {

std::optional<dots::Number> number_of(Precision precision) {
  if (precision == Precision::int8) return dots::Number::int8;
  if (precision == Precision::bf16) return dots::Number::bf16;
  if (has_amx()) return dots::Number::split;
  return std::nullopt;
}

Linear::Linear(const LinearSource& from, int64_t k, int64_t n, Precision precision, int threads)
    : number_(number_of(precision)), k_(k), n_(n), bias_(n) {
  for (int64_t j = 0; j < n && from.bias; ++j) bias_[j] = from.bias[j] * (from.n_scale ? from.n_scale[j] : 1.0f);
  if (number_) {
    const dots::Source source{from.data, from.k_stride, from.n_stride, from.n_scale};
    columns_ = dots::PackedColumns(*number_, source, k, n, bias_.data(), threads);
  }
  if (precision != Precision::fp32) return;
  panels_.resize(gemm::packed_size(k, n));
  gemm::Source source{from.data, from.k_stride == 1 ? from.n_stride : from.k_stride};
  source.n_scale = from.n_scale;
  const auto pack = from.k_stride == 1 ? gemm::pack_columns : gemm::pack_rows;
  pack(source, k, n, panels_.data(), threads);
}

void Linear::multiply(const Operand& a, float* c, int64_t ldc, int64_t m, const Part& part, bool accumulate) const {
  if (a.converted.data) {
    const dots::Kernels& products = dots::kernels(*number_);
    return products.multiply(a.converted, columns_.view(), part.first_panel(n_), part.last_panel(n_), c, ldc, m,
                             accumulate);
  }
  const int64_t first = part.first(n_), columns = part.last(n_) - first;
  gemm::Finish finish;
  finish.bias = accumulate ? nullptr : bias_.data() + first;
  finish.accumulate = accumulate;
  if (next_) finish.next = next_->panels_of(part);
  gemm::kernels().multiply(a.rows, a.ld, panels_of(part).first, c + first, ldc, m, columns, k_, finish);
}

int64_t Linear::bytes() const {
  return static_cast<int64_t>((panels_.size() + bias_.size()) * sizeof(float)) + columns_.bytes();
}

}  // namespace cofi::compact_encoder
