// A pruned classifier from padded ids to logits in one call: packing, embeddings, encoder, head, padding.
#pragma once

#include <cstdint>

#include "cpu/compact_encoder/encoder.h"
#include "cpu/first_token_head/head.h"
#include "cpu/token_embedding/embedding.h"

namespace cofi::compact_model {

// Tables of the embeddings, each of rows of the encoder's width. The first token of a sequence takes row `first` of
// the positions. No types: a family without.
struct Embeddings {
  const float* word;
  int64_t words;
  const float* position;
  int64_t positions, first;
  const float* type;
  int64_t types;
  token_embedding::Norm norm;
};

// (rows, length) each; mask: nonzero where there is a token, null: everywhere; types: null for type 0.
struct Padded {
  const int64_t *ids, *mask, *types;
  int64_t rows, length;
};

// states (rows, length, hidden): zeros at padding
struct Outputs {
  float *pooled, *logits, *states;
};

class Model {
 public:
  // All memory must outlive the model, but for the encoder's, who has a copy.
  Model(const compact_encoder::Encoder& encoder, int64_t hidden, const Embeddings& embeddings,
        const first_token_head::Head& head)
      : encoder_(encoder), hidden_(hidden), embeddings_(embeddings), head_(head) {}

  // False, having written nothing, where a row has no token or more than there are positions, or a number is beyond
  // its table. Any number of threads may call it at once.
  bool run(const Padded& in, const Outputs& to, int threads) const;

 private:
  const compact_encoder::Encoder& encoder_;
  int64_t hidden_;
  Embeddings embeddings_;
  first_token_head::Head head_;
};

}  // namespace cofi::compact_model
