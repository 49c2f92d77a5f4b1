#include "cpu/token_embedding/embedding.h"

#include <algorithm>
#include <cstring>

#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/compact_encoder/kernels.h"

namespace cofi::token_embedding {
namespace {

constexpr int64_t kGrain = 64;  // tokens to a thread at a time

}  // namespace

int first_without_a_row(const std::vector<Table>& tables, int64_t tokens) {
  for (std::size_t i = 0; i < tables.size(); ++i) {
    const Table& table = tables[i];
    const auto has_row = [&table](int64_t number) { return number >= 0 && number < table.count; };
    if (!std::all_of(table.numbers, table.numbers + tokens, has_row)) return static_cast<int>(i);
  }
  return -1;
}

void embed(const std::vector<Table>& tables, const Norm& norm, float* out, int64_t tokens, int64_t hidden,
           int threads) {
  const compact_encoder::Kernels& kernels = compact_encoder::kernels();
  parallel_for(tokens, kGrain, threads, [&](int64_t begin, int64_t end) {
    thread_local Buffer buffer;
    float* const sum = buffer.at_least<float>(hidden);
    for (int64_t t = begin; t < end; ++t) {
      float* row = out + t * hidden;
      std::memcpy(row, tables[0].row_of(t, hidden), hidden * sizeof(float));
      const float* others = tables[1].row_of(t, hidden);
      if (tables.size() > 2) {
        const float* third = tables[2].row_of(t, hidden);
        for (int64_t j = 0; j < hidden; ++j) sum[j] = others[j] + third[j];
        others = sum;
      }
      kernels.add_norm(row, others, norm.weight, norm.bias, norm.eps, 1, hidden);
    }
  });
}

}  // namespace cofi::token_embedding
