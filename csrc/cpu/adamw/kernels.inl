// The kernels of kernels.h, compiled once for each instruction set. Loops are written so that they vectorise.
#include <cmath>

#include "common/sums.inl"
#include "cpu/adamw/kernels.h"

namespace cofi::adamw {
namespace {

double sum_of_squares(const float* x, int64_t n) {
  return sum_of(n, [x](int64_t i) { return x[i] * x[i]; });
}

// The moments of what is dead shrink by a factor a step and would stay among the numbers below the normal ones for
// ever, with which many processors are a hundred times slower. Nothing so small moves a parameter.
inline float flushed(float x) { return x < 1.17549435e-38f && x > -1.17549435e-38f ? 0.0f : x; }

template <bool has_gradient>
void update_range(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n,
                  const Factors& f) {
  const float gradient_factor = f.gradient, keep = f.keep, step_size = f.step_size, root = f.root, beta1 = f.beta1,
              beta2 = f.beta2, eps = f.eps;
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const float g = has_gradient ? gradient[i] * gradient_factor : 0.0f;
    const float m = flushed(beta1 * exp_avg[i] + (1.0f - beta1) * g);
    const float v = flushed(beta2 * exp_avg_sq[i] + (1.0f - beta2) * g * g);
    exp_avg[i] = m;
    exp_avg_sq[i] = v;
    parameter[i] = parameter[i] * keep - step_size * m / (std::sqrt(v) * root + eps);
  }
}

void update(float* parameter, const float* gradient, float* exp_avg, float* exp_avg_sq, int64_t n,
            const Factors& factors) {
  if (gradient) return update_range<true>(parameter, gradient, exp_avg, exp_avg_sq, n, factors);
  update_range<false>(parameter, gradient, exp_avg, exp_avg_sq, n, factors);
}

const Kernels kKernels = {sum_of_squares, update};

}  // namespace
}  // namespace cofi::adamw
