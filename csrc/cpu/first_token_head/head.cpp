#include "cpu/first_token_head/head.h"

#include <vector>

#include "common/parallel.h"
#include "cpu/compact_encoder/kernels.h"
#include "cpu/first_token_head/kernels.h"

namespace cofi::first_token_head {
namespace {

constexpr int64_t kGrain = 64;  // columns to a thread at a time: their weights are 200 KB

void activate(int activation, float* x, int64_t ld, int64_t m, int64_t n) {
  if (activation != kTanh) {
    return compact_encoder::kernels().activate(static_cast<compact_encoder::Activation>(activation), x, ld, m, n);
  }
  for (int64_t r = 0; r < m; ++r) kernels().tanh(x + r * ld, n);
}

// out (m, outputs) = rows of k values each, times the layer's weights, plus its bias.
template <typename Then>
void multiply(const std::vector<const float*>& rows, int64_t k, const Dense& by, float* out, int threads,
              const Then& then) {
  const int64_t m = static_cast<int64_t>(rows.size());
  parallel_for(by.outputs, kGrain, threads, [&](int64_t first, int64_t last) {
    kernels().multiply(rows.data(), m, by.weight, k, by.bias, first, last, out, by.outputs);
    then(out + first, by.outputs, m, last - first);
  });
}

}  // namespace

void apply(const Head& head, const float* x, const int32_t* bounds, int64_t sequences, int64_t hidden, float* pooled,
           float* logits, int threads) {
  std::vector<const float*> rows(sequences);
  for (int64_t s = 0; s < sequences; ++s) rows[s] = x + bounds[s] * hidden;
  int64_t width = hidden;
  if (head.pooler.outputs > 0) {
    multiply(rows, width, head.pooler, pooled, threads,
             [&head](float* part, int64_t ld, int64_t m, int64_t n) { activate(head.activation, part, ld, m, n); });
    width = head.pooler.outputs;
    for (int64_t s = 0; s < sequences; ++s) rows[s] = pooled + s * width;
  }
  if (head.out.outputs > 0) multiply(rows, width, head.out, logits, 1, [](float*, int64_t, int64_t, int64_t) {});
}

}  // namespace cofi::first_token_head
