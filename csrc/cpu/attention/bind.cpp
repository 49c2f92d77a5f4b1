#include "common/bind.h"

#include "cpu/attention/core.h"

namespace cofi::attention {
namespace {

// numbers and state may be 0.
Problem problem_of(uintptr_t qkv, uintptr_t bounds, int64_t sequences, int64_t tokens, int64_t heads, int64_t head_dim,
                   int64_t max_seqlen, uintptr_t numbers, uintptr_t state, int32_t threshold, float scale) {
  return {as<const float>(qkv),
          as<const int32_t>(bounds),
          sequences,
          tokens,
          heads,
          head_dim,
          max_seqlen,
          as<const int64_t>(numbers),
          {as<const int64_t>(state), threshold, scale}};
}

}  // namespace

void bind(pybind11::module_& m) {
  using pybind11::arg;
  m.def(
      "attention",
      [](uintptr_t qkv, uintptr_t bounds, int64_t sequences, int64_t tokens, int64_t heads, int64_t head_dim,
         int64_t max_seqlen, uintptr_t numbers, uintptr_t state, int32_t threshold, float scale, uintptr_t context,
         uintptr_t lse, int threads) {
        forward(
            problem_of(qkv, bounds, sequences, tokens, heads, head_dim, max_seqlen, numbers, state, threshold, scale),
            as<float>(context), as<float>(lse), threads);
      },
      arg("qkv"), arg("bounds"), arg("sequences"), arg("tokens"), arg("heads"), arg("head_dim"), arg("max_seqlen"),
      arg("numbers"), arg("state"), arg("threshold"), arg("scale"), arg("context"), arg("lse"), arg("threads"),
      ReleaseGil());
  m.def(
      "attention_backward",
      [](uintptr_t qkv, uintptr_t bounds, int64_t sequences, int64_t tokens, int64_t heads, int64_t head_dim,
         int64_t max_seqlen, uintptr_t numbers, uintptr_t state, int32_t threshold, float scale, uintptr_t context,
         uintptr_t lse, uintptr_t dcontext, uintptr_t dqkv, int threads) {
        backward(
            problem_of(qkv, bounds, sequences, tokens, heads, head_dim, max_seqlen, numbers, state, threshold, scale),
            as<const float>(context), as<const float>(lse), as<const float>(dcontext), as<float>(dqkv), threads);
      },
      arg("qkv"), arg("bounds"), arg("sequences"), arg("tokens"), arg("heads"), arg("head_dim"), arg("max_seqlen"),
      arg("numbers"), arg("state"), arg("threshold"), arg("scale"), arg("context"), arg("lse"), arg("dcontext"),
      arg("dqkv"), arg("threads"), ReleaseGil());
}

}  // namespace cofi::attention
