// Dropout, residual and LayerNorm over the kept hidden dims, in one version for each instruction set.
// Equations: cofi_kernels/masked_layer_norm/README.md.
#pragma once

#include <cstdint>

#include "cpu/counter_rng/dropout.h"

namespace cofi::masked_layer_norm {

// All of `hidden` elements. weight and bias are multiplied by z_hidden already.
struct Norm {
  const float* weight;
  const float* bias;
  const float* kept;  // 1 inside K, 0 outside
  float share;        // 1 / |K|, and 1 where K is empty
  int64_t hidden;
};

using counter_rng::Dropout;  // of x, element index = flat index

// The rows of x (T, hidden), of which [begin, end) are computed; residual may be null.
struct Rows {
  const float* x;
  const float* residual;
  int64_t begin, end;
};

struct Kernels {
  // room: hidden floats
  void (*forward)(const Norm& norm, const Dropout& dropout, const Rows& rows, float eps, float* y, float* mean,
                  float* rstd, float* room);
  // sum_dy_n and sum_dy (hidden) are added to; dresidual may be null; room: 2 * hidden floats
  void (*backward)(const Norm& norm, const Dropout& dropout, const Rows& rows, const float* dy, const float* mean,
                   const float* rstd, float* dx, float* dresidual, float* sum_dy_n, float* sum_dy, float* room);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::masked_layer_norm
