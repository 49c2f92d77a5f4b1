// Attention inside each of several packed sequences, for the live heads only, forward and backward.
#pragma once

#include <cstdint>

#include "cpu/attention/kernels.h"

namespace cofi::attention {

// qkv (T, 3, H, D), context (T, H, D), lse (H, T); H live heads, numbered `numbers` among all (for the dropout).
struct Problem {
  const float* qkv;
  const int32_t* bounds;  // (sequences + 1,), from 0
  int64_t sequences, tokens, heads, head_dim, max_seqlen;
  const int64_t* numbers;  // null: 0, 1, ...
  Dropout dropout;
};

void forward(const Problem& problem, float* context, float* lse, int threads);
// dqkv (T, 3, H, D) from dcontext (T, H, D); rows of tokens in no sequence are left alone
void backward(const Problem& problem, const float* context, const float* lse, const float* dcontext, float* dqkv,
              int threads);

}  // namespace cofi::attention
