// bf16 and fp16 as bits: to fp32 exactly, from it to the nearest, ties to even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace emulated {

struct Bf16 {
  static float value(uint16_t bits) {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float v;
    std::memcpy(&v, &word, 4);
    return v;
  }
  static uint16_t bits(float v) {
    uint32_t word;
    std::memcpy(&word, &v, 4);
    if (v != v) return static_cast<uint16_t>(word >> 16 | 0x40);
    return static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
  }
};

struct Fp16 {
  static float value(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float v = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                            : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    if (exponent == 31)
      v = fraction != 0 ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    return bits >> 15 != 0 ? -v : v;
  }
  static uint16_t bits(float v) {
    const uint16_t sign = std::signbit(v) ? 0x8000 : 0;
    const float size = std::fabs(v);
    if (v != v) return static_cast<uint16_t>(sign | 0x7E00);
    if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7C00);
    if (size < 6.103515625e-5f)
      return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24))));
    int exponent;
    const float fraction = std::frexp(size, &exponent);  // [0.5, 1)
    const int rounded = static_cast<int>(std::nearbyint(std::ldexp(fraction, 11)));
    return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + rounded));  // a carry moves into the exponent
  }
};

}  // namespace emulated
