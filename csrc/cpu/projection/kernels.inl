// The kernels of kernels.h, compiled once for each instruction set. Loops are written so that they vectorise.
#include "common/sums.inl"
#include "cpu/projection/kernels.h"

namespace cofi::projection {
namespace {

template <bool has_scale>
void gradients_of(float* product, const float* weight, const float* unit, const float* scale, int64_t rows,
                  int64_t width, float* dunit, float* total) {
  for (int64_t r = 0; r < rows; ++r, product += width, weight += width) {
    const float factor = unit ? unit[r] : 1.0f;
    const float *p = product, *w = weight;
    dunit[r] = sum_of(width, [=](int64_t e) { return has_scale ? p[e] * w[e] * scale[e] : p[e] * w[e]; });
    for (int64_t e = 0; e < width; ++e) {
      total[e] += factor * (product[e] * weight[e]);
      product[e] *= has_scale ? factor * scale[e] : factor;
    }
  }
}

void gradients(float* product, const float* weight, const float* unit, const float* scale, int64_t rows, int64_t width,
               float* dunit, float* total) {
  if (scale) return gradients_of<true>(product, weight, unit, scale, rows, width, dunit, total);
  gradients_of<false>(product, weight, unit, scale, rows, width, dunit, total);
}

const Kernels kKernels = {gradients};

}  // namespace
}  // namespace cofi::projection
