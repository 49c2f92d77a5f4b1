#include "cpu/dots/dots.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/cpu_features.h"
#include "common/parallel.h"
#include "cpu/dots/bfloat16.h"

namespace cofi::dots {
namespace {

float element(const Source& b, int64_t k, int64_t n) { return b.data[k * b.k_stride + n * b.n_stride]; }

float factor_of(const Source& b, int64_t column) { return b.n_scale ? b.n_scale[column] : 1.0f; }

// Where byte j of K of a column is.
uint8_t* place(Columns& to, int64_t column, int64_t j) {
  const int64_t group = column / kPanel * to.groups + j / kGroup;
  return to.panels.data() + (group * kPanel + column % kPanel) * kGroup + j % kGroup;
}

float largest_size(const Source& b, int64_t k, int64_t column) {
  float largest = 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    const float value = element(b, i, column);
    if (!std::isfinite(value)) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

void pack_int8(const Source& b, int64_t column, Columns& to) {
  const float step = largest_size(b, to.k, column) / 127.0f;
  int64_t sum = 0;
  for (int64_t i = 0; i < to.k && step > 0.0f; ++i) {
    const auto value = static_cast<int8_t>(std::lrint(element(b, i, column) / step));
    std::memcpy(place(to, column, i), &value, 1);
    sum += value;
  }
  to.scale[column] = step * factor_of(b, column);
  to.sum[column] = to.scale[column] * static_cast<float>(sum);
}

void pack_bf16(const Source& b, int64_t column, Columns& to) {
  for (int64_t i = 0; i < to.k; ++i) {
    const uint16_t value = to_bfloat16(element(b, i, column) * factor_of(b, column));
    std::memcpy(place(to, column, 2 * i), &value, 2);
  }
}

}  // namespace

Columns::Columns(Number number, const Source& b, int64_t k, int64_t n, const float* bias, int threads)
    : k(k),
      n(n),
      groups(groups_of(number, k)),
      panels(panels_of(n) * groups * kPanel * kGroup),
      bias(panels_of(n) * kPanel) {
  if (number == Number::int8) {
    scale.resize(this->bias.size());
    sum.resize(this->bias.size());
  }
  const auto pack = number == Number::int8 ? pack_int8 : pack_bf16;
  parallel_for(n, kPanel, threads, [&](int64_t first, int64_t last) {
    for (int64_t column = first; column < last; ++column) pack(b, column, *this);
  });
  if (bias) std::copy(bias, bias + n, this->bias.begin());
}

const Kernels& kernels(Number number) {
  const bool int8 = number == Number::int8;
#if defined(__x86_64__)
  if (int8 && has_vnni()) return kInt8Vnni;
  if (int8 && isa() != Isa::portable) return kInt8Avx2;
  if (has_bf16()) return kBf16Native;
  if (isa() == Isa::avx512) return kBf16Avx512;
  if (isa() == Isa::avx2) return kBf16Avx2;
#endif
  return int8 ? kInt8Portable : kBf16Portable;
}

}  // namespace cofi::dots
