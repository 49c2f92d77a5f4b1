// The products alone, for tests: the encoder calls them from C++.
#include "common/bind.h"

#include "common/cpu_features.h"
#include "cpu/int8/int8.h"

namespace cofi::int8 {
namespace {

// c (m x n) = a (m x k) b (k x n) + bias, all contiguous, both factors quantized. bias: 0 for none.
void matmul(uintptr_t a, uintptr_t b, uintptr_t bias, uintptr_t c, int64_t m, int64_t n, int64_t k, int threads) {
  const Columns columns({as<const float>(b), n, 1}, k, n, as<const float>(bias), threads);
  const int64_t ld = row_bytes(k);
  std::vector<uint8_t> q(m * ld);
  std::vector<float> scale(m), low(m);
  const Rows rows{q.data(), ld, scale.data(), low.data()};
  kernels().quantize(as<const float>(a), k, m, k, rows);
  kernels().multiply(rows, columns, 0, panels_of(n), as<float>(c), n, m, false);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("int8_matmul", &matmul, arg("a"), arg("b"), arg("bias"), arg("c"), arg("m"), arg("n"), arg("k"), arg("threads"),
        ReleaseGil());
  m.def("has_vnni", [] { return has_vnni(); }, "Whether 8-bit products run on the processor's own instructions.");
}

}  // namespace cofi::int8
