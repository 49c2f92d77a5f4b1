// Vectors of the instruction set that the including file is compiled for, and parts of them at the end of a row.
#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace cofi {
namespace {

#if defined(__AVX512F__)
constexpr int kFloats = 16;
#elif defined(__AVX__)
constexpr int kFloats = 8;
#else
constexpr int kFloats = 4;
#endif

// may_alias and aligned(4), since they are read from and written to any float array.
typedef float Floats __attribute__((vector_size(kFloats * sizeof(float)), aligned(4), may_alias));

inline Floats all(float x) { return Floats{} + x; }

inline Floats load(const float* x) { return *reinterpret_cast<const Floats*>(x); }

inline void store(float* x, Floats v) { *reinterpret_cast<Floats*>(x) = v; }

// The first n < kFloats values; `fill` in the other lanes.
inline Floats load_first(const float* x, int64_t n, float fill) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << n) - 1u), x);
#else
  Floats v = all(fill);
  for (int64_t i = 0; i < n; ++i) v[i] = x[i];
  return v;
#endif
}

inline void store_first(float* x, Floats v, int64_t n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(x, static_cast<__mmask16>((1u << n) - 1u), v);
#else
  for (int64_t i = 0; i < n; ++i) x[i] = v[i];
#endif
}

// The lanes added pairwise.
inline float sum_lanes(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  for (int width = kFloats / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) v[lane] += v[lane + width];
  }
  return v[0];
#endif
}

// NaN may be passed over, here and in `largest_lane`.
inline float smallest_lane(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_min_ps(v);
#else
  for (int lane = 1; lane < kFloats; ++lane) v[0] = v[lane] < v[0] ? v[lane] : v[0];
  return v[0];
#endif
}

inline float largest_lane(Floats v) { return -smallest_lane(-v); }

inline Floats smaller(Floats a, Floats b) { return a < b ? a : b; }

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

}  // namespace
}  // namespace cofi
