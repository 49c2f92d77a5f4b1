// 8-bit numbers: what of them does not depend on the instruction set. `multiply_add` is a b + c; left to the compiler,
// tiles of different heights fuse it or not, and bits would depend on how rows are shared out.
#include <algorithm>
#include <cstring>
#include <limits>

#include "common/vectors.inl"

namespace cofi::dots {
namespace {

constexpr float kSmallestRange = 1e-30f;  // of a row's values; below it the row is taken to be constant

struct Range {
  float low, high;
  bool finite;
};

// Two of each, to hide latencies. `odd` is 0, or NaN after a value that is not finite, which comparisons may pass over.
Range range_of(const float* x, int64_t n) {
  if (n == 0) return {0.0f, 0.0f, true};
  Floats low[2], high[2], odd[2] = {};
  for (int i = 0; i < 2; ++i) low[i] = high[i] = all(x[0]);
  int64_t j = 0;
  for (; j + 2 * kFloats <= n; j += 2 * kFloats) {
    for (int i = 0; i < 2; ++i) {
      const Floats value = load(x + j + i * kFloats);
      low[i] = smaller(low[i], value);
      high[i] = larger(high[i], value);
      odd[i] += value * 0.0f;
    }
  }
  for (; j < n; j += kFloats) {
    const Floats value = n - j >= kFloats ? load(x + j) : load_first(x + j, n - j, x[0]);
    low[0] = smaller(low[0], value);
    high[0] = larger(high[0], value);
    odd[0] += value * 0.0f;
  }
  const bool finite = sum_lanes(odd[0] + odd[1]) == 0.0f;
  return {smallest_lane(smaller(low[0], low[1])), largest_lane(larger(high[0], high[1])), finite};
}

// kFloats bytes of q = (x - low) factor rounded, in [0, 255].
inline void store_quantized(uint8_t* q, Floats x, Floats low, Floats factor) {
  const Floats shifted = (x - low) * factor + 0.5f;
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(shifted)));
#elif defined(__AVX2__)
  const __m256i whole = _mm256_cvttps_epi32(shifted);
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(q), _mm_packus_epi16(words, words));
#else
  for (int lane = 0; lane < kFloats; ++lane) q[lane] = static_cast<uint8_t>(static_cast<int>(shifted[lane]));
#endif
}

// Whole vectors are stored: a row has room for them, and what is beyond k becomes 0.
void quantize(const float* x, int64_t k, float low, float factor, uint8_t* q) {
  int64_t j = 0;
  for (; j + kFloats <= k; j += kFloats) store_quantized(q + j, load(x + j), all(low), all(factor));
  if (j < k) store_quantized(q + j, load_first(x + j, k - j, low), all(low), all(factor));
}

void convert(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to) {
  const int64_t bytes = row_bytes(Number::int8, k), last = k / kFloats * kFloats;
  for (int64_t r = 0; r < m; ++r) {
    uint8_t* q = to.data + r * to.ld;
    const Range range = range_of(x + r * ldx, k);
    const float width = range.high - range.low;
    const bool finite = range.finite && width < std::numeric_limits<float>::infinity();
    const bool constant = finite && width < kSmallestRange;
    to.low[r] = range.low;
    if (!finite || constant) {
      std::fill(q, q + bytes, uint8_t{0});  // q may be null where k is 0
      to.scale[r] = constant ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    std::memset(q + last, 0, bytes - last);
    to.scale[r] = width / 255.0f;
    quantize(x + r * ldx, k, range.low, 255.0f / width, q);
  }
}

inline Vector finish(Sums sum, const Rows& a, int row, const Columns& b, int64_t column, Vector start) {
  const Vector factor = *reinterpret_cast<const Vector*>(b.scale + column);
  const Vector total = *reinterpret_cast<const Vector*>(b.sum + column);
  const Vector product = __builtin_convertvector(sum, Vector);
  return multiply_add(product, factor * a.scale[row], multiply_add(total, Vector{} + a.low[row], start));
}

}  // namespace
}  // namespace cofi::dots
