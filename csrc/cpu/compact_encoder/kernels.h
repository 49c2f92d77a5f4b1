// What a layer does to rows besides matrix products, in one version for each instruction set.
#pragma once

#include <cstdint>

namespace cofi::compact_encoder {

enum class Activation { gelu = 0, gelu_new = 1, relu = 2 };

struct Kernels {
  // In place over m rows of n, ld apart.
  void (*activate)(Activation activation, float* x, int64_t ld, int64_t m, int64_t n);
  void (*softmax)(float* scores, int64_t ld, int64_t m, int64_t n);
  // x = (x + y - mean) / sqrt(variance + eps) * weight + bias over rows of n. Both are contiguous.
  void (*add_norm)(float* x, const float* y, const float* weight, const float* bias, float eps, int64_t m, int64_t n);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::compact_encoder
