// Matrix products of tensors as they lie in memory: what a training step does with weights that change every time.
#include "common/bind.h"

#include "common/scratch.h"
#include "cpu/gemm/gemm.h"

namespace cofi::products {
namespace {

// c (m x n, ldc) = a (m x k) b (k x n) + bias. An operand is stored by rows, or by columns where `_by_columns`; `lda`
// and `ldb` are the distances between its rows, or columns. k_scale (k) and n_scale (n) multiply the rows and columns
// of b while it is packed. bias, k_scale, n_scale: 0 for none.
void matmul(uintptr_t a, int64_t lda, bool a_by_columns, uintptr_t b, int64_t ldb, bool b_by_columns, uintptr_t bias,
            uintptr_t c, int64_t ldc, int64_t m, int64_t n, int64_t k, int threads, uintptr_t k_scale,
            uintptr_t n_scale) {
  thread_local Buffer panels_buffer, rows_buffer;
  float* panels = panels_buffer.at_least<float>(gemm::packed_size(k, n));
  const auto pack = b_by_columns ? gemm::pack_columns : gemm::pack_rows;
  pack({as<const float>(b), ldb, nullptr, as<const float>(k_scale), as<const float>(n_scale)}, k, n, panels, threads);
  const float* rows = as<const float>(a);
  if (a_by_columns) {
    float* made = rows_buffer.at_least<float>(m * k);
    gemm::transpose(rows, lda, k, m, made, k, threads);
    rows = made;
    lda = k;
  }
  gemm::Finish finish;
  finish.bias = as<const float>(bias);
  gemm::multiply(rows, lda, panels, as<float>(c), ldc, m, n, k, finish, threads);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("matmul", &matmul, arg("a"), arg("lda"), arg("a_by_columns"), arg("b"), arg("ldb"), arg("b_by_columns"),
        arg("bias"), arg("c"), arg("ldc"), arg("m"), arg("n"), arg("k"), arg("threads"), arg("k_scale") = 0,
        arg("n_scale") = 0, ReleaseGil());
}

}  // namespace cofi::products
