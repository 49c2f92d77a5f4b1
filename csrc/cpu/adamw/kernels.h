// AdamW over a range of elements, in one version for each instruction set. Equations: cofi_kernels/adamw/reference.py.
#pragma once

#include <cstdint>

namespace cofi::adamw {

struct Factors {
  float gradient;   // what clipping multiplies a gradient with
  float keep;       // 1 - lr * weight_decay
  float step_size;  // lr / (1 - beta1^t)
  float root;       // 1 / sqrt(1 - beta2^t)
  float beta1, beta2, eps;
};

struct Kernels {
  double (*sum_of_squares)(const float* x, int64_t n);
  // gradient null: zeros
  void (*update)(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n,
                 const Factors& factors);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::adamw
