// Products of a few rows with weights as PyTorch has them, in one version for each instruction set.
#pragma once

#include <cstdint>

namespace cofi::first_token_head {

struct Kernels {
  // out[r ldo + j] = rows[r] . w[j] + bias[j] for m rows and columns [first, last) of weights w (n x k). The bits
  // depend on k alone, not on which rows and columns are computed together.
  void (*multiply)(const float* const* rows, int64_t m, const float* w, int64_t k, const float* bias, int64_t first,
                   int64_t last, float* out, int64_t ldo);
  void (*tanh)(float* x, int64_t n);  // in place
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::first_token_head
