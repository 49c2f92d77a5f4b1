// bf16 is the upper half of an fp32 number.
#pragma once

#include <cstdint>
#include <cstring>

namespace cofi::dots {

// Rounded to nearest, ties to even; NaN stays NaN. Static: each file that includes it has its own copy.
static inline uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40 : rounded);
}

static inline float from_bfloat16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// The nearest bf16; `rest` becomes what it is short of the number.
static inline uint16_t take_bfloat16(float& rest) {
  const uint16_t value = to_bfloat16(rest);
  rest -= from_bfloat16(value);
  return value;
}

}  // namespace cofi::dots
