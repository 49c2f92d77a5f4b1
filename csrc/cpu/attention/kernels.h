// The softmax of attention scores and its gradient, with dropout, in one version for each instruction set.
#pragma once

#include <cstdint>

#include "cpu/counter_rng/dropout.h"

namespace cofi::attention {

using counter_rng::Dropout;

// m rows of n scores, `ld` from one to the next. Row r's first element has number first + r * step for the dropout.
struct Block {
  int64_t m, n, ld;
  int64_t first, step;
};

struct Kernels {
  // scores := dropout(softmax(scale * scores)); lse: what the exponents are taken against, (m,)
  void (*softmax)(float* scores, const Block& block, float scale, const Dropout& dropout, float* lse, float* room);
  // From the raw scores and dp = dc v^T: scores := dropout(p), which dv needs, and dp := scale * ds, where
  // ds = p (dropout(dp) - delta) and delta = dc c. dc, c: m rows of `width`, ld_c apart. room: n floats
  void (*softmax_backward)(float* scores, float* dp, const Block& block, float scale, const Dropout& dropout,
                           const float* lse, const float* dc, const float* c, int64_t ld_c, int64_t width, float* room);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::attention
