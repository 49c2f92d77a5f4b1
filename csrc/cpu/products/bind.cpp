// Matrix products of tensors as they lie in memory: what a training step does with weights that change every time.
#include "common/bind.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "common/cpu_features.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/dots/dots.h"
#include "cpu/gemm/gemm.h"

namespace cofi::products {
namespace {

// Stored by rows, or by columns where `by_columns`; `ld` is the distance between its rows, or columns.
struct Matrix {
  const float* data;
  int64_t ld;
  bool by_columns;
};

// c (m x n, ldc) = a (m x k) b (k x n) + bias. k_scale (k) and n_scale (n) multiply the rows and columns of b while it
// is packed. They and bias may be null.
struct Product {
  Matrix a, b;
  const float *bias, *k_scale, *n_scale;
  float* c;
  int64_t ldc, m, n, k;
  int threads;
};

void multiply(const Product& p) {
  thread_local Buffer panels_buffer, rows_buffer;
  float* panels = panels_buffer.at_least<float>(gemm::packed_size(p.k, p.n));
  const auto pack = p.b.by_columns ? gemm::pack_columns : gemm::pack_rows;
  pack({p.b.data, p.b.ld, nullptr, p.k_scale, p.n_scale}, p.k, p.n, panels, p.threads);
  Matrix a = p.a;
  if (a.by_columns) {
    float* made = rows_buffer.at_least<float>(p.m * p.k);
    gemm::transpose(a.data, a.ld, p.k, p.m, made, p.k, p.threads);
    a = {made, p.k, false};
  }
  gemm::Finish finish;
  finish.bias = p.bias;
  gemm::multiply(a.data, a.ld, panels, p.c, p.ldc, p.m, p.n, p.k, finish, p.threads);
}

#if defined(__x86_64__)
constexpr int64_t kRowsAtATime = 128, kPanelsAtATime = 12;  // of C to a thread

// By bf16 dot products of the factors, or of their pieces.
void multiply(const Product& p, dots::Number number) {
  thread_local Buffer panels_buffer, rows_buffer, bias_buffer;
  dots::Columns columns(number, p.k, p.n);
  const int64_t n_panels = dots::panels_of(p.n), ld = dots::row_bytes(number, p.k);
  auto* panels = panels_buffer.at_least<uint8_t>(n_panels * columns.stride);
  auto* rows = rows_buffer.at_least<uint8_t>(p.m * ld);
  auto* bias = bias_buffer.at_least<float>(n_panels * dots::kPanel);
  std::fill(bias, bias + n_panels * dots::kPanel, 0.0f);
  if (p.bias) std::copy(p.bias, p.bias + p.n, bias);
  columns.panels = panels;
  columns.bias = bias;
  const dots::Units b{p.b.data, p.b.ld, !p.b.by_columns, p.k, p.n, p.k_scale, p.n_scale};
  const dots::Units a{p.a.data, p.a.ld, p.a.by_columns, p.k, p.m};
  parallel_for(p.n, 4 * dots::kPanel, p.threads,
               [&](int64_t first, int64_t last) { dots::pack_panels(number, b, first, last, panels); });
  parallel_for(p.m, 4 * dots::kPanel, p.threads,
               [&](int64_t first, int64_t last) { dots::pack_rows(number, a, first, last, rows, ld); });
  const dots::Kernels& use = dots::kernels(number);
  const int64_t row_parts = (p.m + kRowsAtATime - 1) / kRowsAtATime;
  const int64_t column_parts = (n_panels + kPanelsAtATime - 1) / kPanelsAtATime;
  parallel_for(row_parts * column_parts, 1, p.threads, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t row = part % row_parts * kRowsAtATime, panel = part / row_parts * kPanelsAtATime;
      use.multiply({rows + row * ld, ld, nullptr, nullptr}, columns, panel, std::min(panel + kPanelsAtATime, n_panels),
                   p.c + row * p.ldc, p.ldc, std::min(kRowsAtATime, p.m - row), false);
    }
  });
}
#endif

// bias, k_scale, n_scale: 0 for none. number: fp32, bf16 or split.
void matmul(uintptr_t a, int64_t lda, bool a_by_columns, uintptr_t b, int64_t ldb, bool b_by_columns, uintptr_t bias,
            uintptr_t c, int64_t ldc, int64_t m, int64_t n, int64_t k, int threads, uintptr_t k_scale,
            uintptr_t n_scale, const std::string& number) {
  const Product product{{as<const float>(a), lda, a_by_columns},
                        {as<const float>(b), ldb, b_by_columns},
                        as<const float>(bias),
                        as<const float>(k_scale),
                        as<const float>(n_scale),
                        as<float>(c),
                        ldc,
                        m,
                        n,
                        k,
                        threads};
  if (number == "fp32") return multiply(product);
#if defined(__x86_64__)
  if (has_bf16() && number == "bf16") return multiply(product, dots::Number::bf16);
  if (has_bf16() && number == "split") return multiply(product, dots::Number::split);
#endif
  throw std::invalid_argument("number must be fp32 or, with has_bf16(), bf16 or split, got '" + number + "'");
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("matmul", &matmul, arg("a"), arg("lda"), arg("a_by_columns"), arg("b"), arg("ldb"), arg("b_by_columns"),
        arg("bias"), arg("c"), arg("ldc"), arg("m"), arg("n"), arg("k"), arg("threads"), arg("k_scale") = 0,
        arg("n_scale") = 0, arg("number") = "fp32", ReleaseGil());
}

}  // namespace cofi::products
