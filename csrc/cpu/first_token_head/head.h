// What a classifier does after the encoder: the dense layer on the first token of every sequence, then the logits.
#pragma once

#include <cstdint>

namespace cofi::first_token_head {

// weight (outputs, inputs) as PyTorch has it; no outputs: the layer is not there.
struct Dense {
  const float *weight, *bias;
  int64_t outputs;
};

constexpr int kTanh = -1;  // other activations have the numbers of compact_encoder::Activation

struct Head {
  Dense pooler;
  int activation;  // of the pooler
  Dense out;
};

// x (tokens, hidden); bounds (sequences + 1,). pooled (sequences, pooler.outputs) and logits (sequences, out.outputs);
// without a pooler the logits are made of x.
void apply(const Head& head, const float* x, const int32_t* bounds, int64_t sequences, int64_t hidden, float* pooled,
           float* logits, int threads);

}  // namespace cofi::first_token_head
