// The products alone, for tests: the encoder calls them from C++.
#include "common/bind.h"

#include <stdexcept>
#include <string>

#include "common/cpu_features.h"
#include "cpu/dots/dots.h"

namespace cofi::dots {
namespace {

Number number_of(const std::string& name) {
  if (name == "int8") return Number::int8;
  if (name == "bf16") return Number::bf16;
  if (name == "split") return Number::split;
  throw std::invalid_argument("number must be one of int8, bf16, split, got '" + name + "'");
}

// c (m x n) = a (m x k) b (k x n) + bias, all contiguous, both factors converted. bias: 0 for none.
void matmul(const std::string& number_name, uintptr_t a, uintptr_t b, uintptr_t bias, uintptr_t c, int64_t m, int64_t n,
            int64_t k, int threads) {
  const Number number = number_of(number_name);
  const PackedColumns columns(number, {as<const float>(b), n, 1}, k, n, as<const float>(bias), threads);
  const int64_t ld = row_bytes(number, k);
  std::vector<uint8_t> data(m * ld);
  std::vector<float> scale(m), low(m);
  const Rows rows{data.data(), ld, scale.data(), low.data()};
  kernels(number).convert(as<const float>(a), k, m, k, rows);
  kernels(number).multiply(rows, columns.view(), 0, panels_of(n), as<float>(c), n, m, false);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("low_precision_matmul", &matmul, arg("number"), arg("a"), arg("b"), arg("bias"), arg("c"), arg("m"), arg("n"),
        arg("k"), arg("threads"), ReleaseGil());
  m.def("has_amx", &has_amx, "Whether 8-bit, bf16 and fp32 products run on the processor's tiles.");
  m.def("has_vnni", &has_vnni, "Whether 8-bit products run on the processor's own instructions.");
  m.def("has_bf16", &has_bf16, "Whether bf16 products run on the processor's own instructions.");
}

}  // namespace cofi::dots
