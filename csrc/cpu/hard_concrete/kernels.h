// Hard-concrete gates over a range of elements, in one version for each instruction set.
// Equations: cofi_kernels/hard_concrete/reference.py.
#pragma once

#include <cstdint>

namespace cofi::hard_concrete {

constexpr float kGamma = -0.1f;  // stretch limits
constexpr float kZeta = 1.1f;
constexpr float kEpsilon = 1e-6f;

// Uniforms given, or the counter state [seed, offset] they are made from: one of the two is null.
struct Noise {
  const float* u;
  const int64_t* state;
};

// Elements [begin, end) of contiguous arrays. zero_point: the loga at which P(z > 0) = 1/2.
struct Kernels {
  void (*sample)(const float* loga, Noise noise, int64_t begin, int64_t end, float temperature, float* z);
  void (*sample_backward)(const float* dz, const float* loga, Noise noise, int64_t begin, int64_t end,
                          float temperature, float* dloga);
  void (*keep)(const float* loga, int64_t begin, int64_t end, float zero_point, float* p);
  void (*keep_backward)(const float* dp, const float* loga, int64_t begin, int64_t end, float zero_point, float* dloga);
  double (*expected_live)(const float* loga, int64_t begin, int64_t end, float zero_point);  // sum of keep
  void (*soft)(const float* loga, int64_t begin, int64_t end, float scale, float* z);        // sigmoid(scale loga)
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::hard_concrete
