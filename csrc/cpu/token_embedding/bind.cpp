// Rows of up to three tables added and normalised, a token at a time.
#include "common/bind.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/compact_encoder/kernels.h"

namespace cofi::token_embedding {
namespace {

constexpr int64_t kGrain = 64;  // tokens to a thread at a time

struct Table {
  const int64_t* numbers;
  const float* rows;
  int64_t count;

  const float* row_of(int64_t token, int64_t hidden) const { return rows + numbers[token] * hidden; }
};

bool in_range(const Table& table, int64_t tokens) {
  return std::all_of(table.numbers, table.numbers + tokens,
                     [&table](int64_t number) { return number >= 0 && number < table.count; });
}

// Returns the first table that has no row of some number, having written nothing, or -1.
int forward(const std::vector<uintptr_t>& numbers, const std::vector<uintptr_t>& tables,
            const std::vector<int64_t>& rows, uintptr_t weight, uintptr_t bias, float eps, uintptr_t out,
            int64_t tokens, int64_t hidden, int threads) {
  std::vector<Table> sources;
  for (std::size_t i = 0; i < tables.size(); ++i) {
    sources.push_back({as<const int64_t>(numbers[i]), as<const float>(tables[i]), rows[i]});
    if (!in_range(sources.back(), tokens)) return static_cast<int>(i);
  }
  const compact_encoder::Kernels& kernels = compact_encoder::kernels();
  parallel_for(tokens, kGrain, threads, [&](int64_t begin, int64_t end) {
    thread_local Buffer buffer;
    float* const sum = buffer.at_least<float>(hidden);
    for (int64_t t = begin; t < end; ++t) {
      float* row = as<float>(out) + t * hidden;
      std::memcpy(row, sources[0].row_of(t, hidden), hidden * sizeof(float));
      const float* others = sources[1].row_of(t, hidden);
      if (sources.size() > 2) {
        const float* third = sources[2].row_of(t, hidden);
        for (int64_t j = 0; j < hidden; ++j) sum[j] = others[j] + third[j];
        others = sum;
      }
      kernels.add_norm(row, others, as<const float>(weight), as<const float>(bias), eps, 1, hidden);
    }
  });
  return -1;
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("token_embedding", &forward, arg("numbers"), arg("tables"), arg("rows"), arg("weight"), arg("bias"), arg("eps"),
        arg("out"), arg("tokens"), arg("hidden"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::token_embedding
