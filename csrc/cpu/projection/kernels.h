// Gradients of a projection under masks, from the product that all of them are made of, in one version for each
// instruction set. Equations: OutputProjection in cofi_kernels/gathering.py.
#pragma once

#include <cstdint>

namespace cofi::projection {

struct Kernels {
  // For each of `rows` rows of product and weight (width): dunit = sum_e product weight scale; total (width) += unit
  // product weight; product := unit scale product. unit, scale: null for ones.
  void (*gradients)(float* product, const float* weight, const float* unit, const float* scale, int64_t rows,
                    int64_t width, float* dunit, float* total);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use.
const Kernels& kernels();

}  // namespace cofi::projection
