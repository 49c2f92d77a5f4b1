#include "cpu/int8/int8.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/cpu_features.h"
#include "common/parallel.h"

namespace cofi::int8 {
namespace {

float largest_size(const Source& b, int64_t k, int64_t column) {
  float largest = 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    const float value = b.data[i * b.k_stride + column * b.n_stride];
    if (!std::isfinite(value)) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

void pack_column(const Source& b, int64_t column, Columns& to) {
  const float step = largest_size(b, to.k, column) / 127.0f;
  const float factor = b.n_scale ? b.n_scale[column] : 1.0f;
  int8_t* out = to.panels.data() + column / kPanel * groups_of(to.k) * kPanel * kGroup + column % kPanel * kGroup;
  int64_t sum = 0;
  for (int64_t i = 0; i < to.k && step > 0.0f; ++i) {
    const auto value = static_cast<int8_t>(std::lrint(b.data[i * b.k_stride + column * b.n_stride] / step));
    out[i / kGroup * kPanel * kGroup + i % kGroup] = value;
    sum += value;
  }
  to.scale[column] = step * factor;
  to.sum[column] = to.scale[column] * static_cast<float>(sum);
}

}  // namespace

Columns::Columns(const Source& b, int64_t k, int64_t n, const float* bias, int threads)
    : k(k),
      n(n),
      panels(panels_of(n) * groups_of(k) * kPanel * kGroup),
      scale(panels_of(n) * kPanel),
      sum(scale.size()),
      bias(scale.size()) {
  parallel_for(n, kPanel, threads, [&](int64_t first, int64_t last) {
    for (int64_t column = first; column < last; ++column) pack_column(b, column, *this);
  });
  if (bias) std::copy(bias, bias + n, this->bias.begin());
}

const Kernels& kernels() {
#if defined(__x86_64__)
  if (has_vnni()) return kVnni;
  if (isa() != Isa::portable) return kAvx2;
#endif
  return kPortable;
}

}  // namespace cofi::int8
