// The kernels of kernels.h, compiled once for each instruction set. The loops over a block of words are plain, so that
// the compiler vectorises them for the file they are included in.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/counter_rng/kernels.h"
#include "cpu/counter_rng/philox.inl"

namespace cofi::counter_rng {
namespace {

inline float widen(float v) { return v; }
inline double widen(double v) { return v; }
inline float widen(BFloat16 v) {
  const uint32_t bits = static_cast<uint32_t>(v.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof(wide));
  return wide;
}

inline void narrow(float v, float* out) { *out = v; }
inline void narrow(double v, double* out) { *out = v; }
inline void narrow(float v, BFloat16* out) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof(bits));
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;  // to nearest, ties to even
  out->bits = static_cast<uint16_t>(v == v ? rounded : 0x7FC0u);          // NaN must not be rounded to infinity
}

void uniform_kernel(const int64_t* state, int64_t begin, int64_t n, float* u) {
  alignas(64) uint32_t room[kRoom];
  for (int64_t done = 0, size; done < n; done += size) {
    size = elements_at_once(begin + done, n - done);
    const uint32_t* words = element_words(state, begin + done, size, room);
    for (int64_t i = 0; i < size; ++i) u[done + i] = uniform(words[i]);
  }
}

template <typename T>
void dropout_kernel(const int64_t* state, int64_t begin, int64_t n, int32_t threshold, double scale, const T* x, T* y) {
  using Wide = decltype(widen(T{}));
  const Wide wide_scale = static_cast<Wide>(scale);
  alignas(64) uint32_t room[kRoom];
  for (int64_t done = 0, size; done < n; done += size) {
    size = elements_at_once(begin + done, n - done);
    const uint32_t* words = element_words(state, begin + done, size, room);
    for (int64_t i = 0; i < size; ++i) {
      const Wide scaled = widen(x[done + i]) * wide_scale;
      narrow(uniform_steps(words[i]) >= threshold ? scaled : Wide{0}, &y[done + i]);
    }
  }
}

constexpr Kernels kKernels{uniform_kernel, dropout_kernel<float>, dropout_kernel<BFloat16>, dropout_kernel<double>};

}  // namespace
}  // namespace cofi::counter_rng
