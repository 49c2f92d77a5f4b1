// What a classifier does after the encoder: the dense layer on the first token of every sequence, then the logits.
#include "common/bind.h"

#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "cpu/compact_encoder/kernels.h"
#include "cpu/first_token_head/kernels.h"

namespace cofi::first_token_head {
namespace {

constexpr int64_t kGrain = 64;  // columns to a thread at a time: their weights are 200 KB
constexpr int kTanh = -1;       // other numbers are those of compact_encoder::Activation

void activate(int activation, float* x, int64_t ld, int64_t m, int64_t n) {
  if (activation != kTanh) {
    return compact_encoder::kernels().activate(static_cast<compact_encoder::Activation>(activation), x, ld, m, n);
  }
  for (int64_t r = 0; r < m; ++r) kernels().tanh(x + r * ld, n);
}

// out (m, n) = rows w^T + bias; rows of k values each.
void dense(const std::vector<const float*>& rows, int64_t k, uintptr_t w, uintptr_t bias, uintptr_t out, int64_t n,
           int threads, int activation, bool activated) {
  const int64_t m = static_cast<int64_t>(rows.size());
  parallel_for(n, kGrain, threads, [&](int64_t first, int64_t last) {
    kernels().multiply(rows.data(), m, as<const float>(w), k, as<const float>(bias), first, last, as<float>(out), n);
    if (activated) activate(activation, as<float>(out) + first, n, m, last - first);
  });
}

// x (tokens, hidden); bounds (sequences + 1,). pooled (sequences, pooler) and logits (sequences, labels): widths of 0
// for what is not there; without a pooler the logits are made of x.
void forward(uintptr_t x, uintptr_t bounds, int64_t sequences, int64_t hidden, uintptr_t w_pooler, uintptr_t b_pooler,
             int activation, uintptr_t pooled, int64_t pooler, uintptr_t w_out, uintptr_t b_out, uintptr_t logits,
             int64_t labels, int threads) {
  std::vector<const float*> rows(sequences);
  for (int64_t s = 0; s < sequences; ++s) rows[s] = as<const float>(x) + as<const int32_t>(bounds)[s] * hidden;
  if (pooler > 0) {
    dense(rows, hidden, w_pooler, b_pooler, pooled, pooler, threads, activation, true);
    for (int64_t s = 0; s < sequences; ++s) rows[s] = as<const float>(pooled) + s * pooler;
  }
  if (labels > 0) dense(rows, pooler > 0 ? pooler : hidden, w_out, b_out, logits, labels, 1, activation, false);
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def("first_token_head", &forward, arg("x"), arg("bounds"), arg("sequences"), arg("hidden"), arg("w_pooler"),
        arg("b_pooler"), arg("activation"), arg("pooled"), arg("pooler"), arg("w_out"), arg("b_out"), arg("logits"),
        arg("labels"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::first_token_head
