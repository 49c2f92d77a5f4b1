// exp, log and sigmoid without branches or calls, so that loops over them vectorise. Some 2e-7 relative error each.
#pragma once

#include <cstdint>
#include <cstring>

namespace cofi {
namespace {

// Unsigned: the bits of a NaN may overflow below, which must not be undefined.
inline float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t as_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// Comparisons are written so that NaN passes.
inline float clamp(float x, float low, float high) {
  const float raised = x < low ? low : x;
  return raised > high ? high : raised;
}

// exp(x) = 2^n exp(r), |r| <= ln(2) / 2, with the Taylor series to r^7 (the next term is below 6e-9). Outside
// [-87, 87] it is held at the ends: a sigmoid is 0 or 1 to fp32 there, and 1 / exp(87) still a normal number.
inline float exp(float x) {
  x = clamp(x, -87.0f, 87.0f);
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum rounds to an integer in its low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts: n times the first is exact
  float sum = 1.0f / 5040.0f;
  sum = sum * r + 1.0f / 720.0f;
  sum = sum * r + 1.0f / 120.0f;
  sum = sum * r + 1.0f / 24.0f;
  sum = sum * r + 1.0f / 6.0f;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const uint32_t exponent = as_bits(shifted) - as_bits(12582912.0f) + 127u;
  return sum * as_float(exponent << 23);
}

// log(x) = e ln 2 + 2 atanh(s), s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)), |s| < 0.172, with the series to s^9.
// x is held within the normal numbers: log(0) is -87.3.
inline float log(float x) {
  const float held = clamp(x, 1.17549435e-38f, 3.40282347e38f);
  const uint32_t bits = as_bits(held);
  const int32_t e = static_cast<int32_t>(bits - as_bits(0.707106769f)) >> 23;
  const float f = as_float(bits - (static_cast<uint32_t>(e) << 23)) - 1.0f;
  const float s = f / (2.0f + f);
  const float q = s * s;
  float sum = 1.0f / 9.0f;
  sum = sum * q + 1.0f / 7.0f;
  sum = sum * q + 1.0f / 5.0f;
  sum = sum * q + 1.0f / 3.0f;
  const float mantissa = 2.0f * s + 2.0f * s * q * sum;
  const float value = static_cast<float>(e) * 0.693147181f + mantissa;
  return x == x ? value : x;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace
}  // namespace cofi
