#include "cpu/compact_encoder/linear.h"

namespace cofi::compact_encoder {

Linear::Linear(const LinearSource& from, int64_t k, int64_t n, Precision precision, int threads)
    : precision_(precision), k_(k), n_(n), bias_(n) {
  for (int64_t j = 0; j < n && from.bias; ++j) bias_[j] = from.bias[j] * (from.n_scale ? from.n_scale[j] : 1.0f);
  if (precision != Precision::fp32) {
    const dots::Source source{from.data, from.k_stride, from.n_stride, from.n_scale};
    columns_ = dots::Columns(number_of(precision), source, k, n, bias_.data(), threads);
    return;
  }
  panels_.resize(gemm::packed_size(k, n));
  gemm::Source source{from.data, from.k_stride == 1 ? from.n_stride : from.k_stride};
  source.n_scale = from.n_scale;
  const auto pack = from.k_stride == 1 ? gemm::pack_columns : gemm::pack_rows;
  pack(source, k, n, panels_.data(), threads);
}

void Linear::multiply(const Operand& a, float* c, int64_t ldc, int64_t m, const Part& part, bool accumulate) const {
  if (precision_ != Precision::fp32) {
    const dots::Kernels& products = dots::kernels(number_of(precision_));
    return products.multiply(a.converted, columns_, part.first_panel(n_), part.last_panel(n_), c, ldc, m, accumulate);
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
