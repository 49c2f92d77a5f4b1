// Dropout as the kernels of other families are told of it.
#pragma once

#include <cstdint>

namespace cofi::counter_rng {

// An element is kept where its uniform's step number is at least `threshold`, and multiplied by `scale`. No state:
// none.
struct Dropout {
  const int64_t* state;
  int32_t threshold;
  float scale;
};

}  // namespace cofi::counter_rng
