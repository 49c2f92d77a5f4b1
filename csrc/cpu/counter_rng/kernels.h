// Counter-based uniforms and dropout over a range of elements, in one version for each instruction set.
#pragma once

#include <cstdint>

namespace cofi::counter_rng {

struct BFloat16 {
  uint16_t bits;
};

// state: [seed, offset]. The first element of the range has index `begin`; x, y, u point at it; n elements.
// Dropout keeps an element where its uniform's step number is at least `threshold`, and multiplies it by `scale`.
struct Kernels {
  void (*uniform)(const int64_t* state, int64_t begin, int64_t n, float* u);
  void (*dropout_float)(const int64_t* state, int64_t begin, int64_t n, int32_t threshold, double scale, const float* x,
                        float* y);
  void (*dropout_bfloat16)(const int64_t* state, int64_t begin, int64_t n, int32_t threshold, double scale,
                           const BFloat16* x, BFloat16* y);
  void (*dropout_double)(const int64_t* state, int64_t begin, int64_t n, int32_t threshold, double scale,
                         const double* x, double* y);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use; for other CPU families as well.
const Kernels& kernels();

}  // namespace cofi::counter_rng
