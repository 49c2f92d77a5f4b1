#include "common/bind.h"

#include <pybind11/stl.h>

#include <vector>

#include "cpu/token_embedding/embedding.h"

namespace cofi::token_embedding {
namespace {

// Returns the first table that has no row of some number, having written nothing, or -1.
int forward(const std::vector<uintptr_t>& numbers, const std::vector<uintptr_t>& tables,
            const std::vector<int64_t>& rows, uintptr_t weight, uintptr_t bias, float eps, uintptr_t out,
            int64_t tokens, int64_t hidden, int threads) {
  std::vector<Table> sources;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    sources.push_back({as<const int64_t>(numbers[i]), as<const float>(tables[i]), rows[i]});
  }
  const int wrong = first_without_a_row(sources, tokens);
  if (wrong < 0) {
    embed(sources, {as<const float>(weight), as<const float>(bias), eps}, as<float>(out), tokens, hidden, threads);
  }
  return wrong;
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("token_embedding", &forward, arg("numbers"), arg("tables"), arg("rows"), arg("weight"), arg("bias"), arg("eps"),
        arg("out"), arg("tokens"), arg("hidden"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::token_embedding
