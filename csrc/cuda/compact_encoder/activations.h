// The activations without branches: 64 of them stand in a row where a lane stores what it summed. Each comes within
// 3e-7 of the definition, or of its own size where that is less: bf16 and fp16 round at 4e-3 and 5e-4.
#pragma once

#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

// u Phi(u), with the tail of the normal distribution as a polynomial in 1 / (1 + 0.3275911 z) times exp(-z^2), z = |u|
// / sqrt(2): Abramowitz and Stegun 7.1.26. The tail is a product, so that small results for negative u keep their
// digits.
struct Gelu {
  template <class M>
  static COFI_KERNEL float of(M& m, float u) {
    const float z = m.absolute(u) * 0.70710678f;
    const float t = m.reciprocal(1.0f + 0.3275911f * z);
    const float polynomial =
        t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
    const float tail = 0.5f * u * polynomial * m.exp2(-1.44269504f * z * z);
    return u > 0.0f ? u - tail : tail;
  }
};

// 0.5 u (1 + tanh y) = u / (1 + exp(-2 y)), y = sqrt(2 / pi) (u + 0.044715 u^3).
struct GeluNew {
  template <class M>
  static COFI_KERNEL float of(M& m, float u) {
    const float y = 0.79788456f * (u + 0.044715f * u * u * u);
    return u * m.reciprocal(1.0f + m.exp2(-2.88539008f * y));
  }
};

struct Relu {
  template <class M>
  static COFI_KERNEL float of(M&, float u) {
    return u > 0.0f || u != u ? u : 0.0f;  // NaN stays
  }
};

}  // namespace cofi::compact_encoder
