#include "cpu/dots/dots.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <utility>

#include "common/cpu_features.h"
#include "common/parallel.h"
#include "cpu/dots/bfloat16.h"

namespace cofi::dots {
namespace {

float element(const Source& b, int64_t k, int64_t n) { return b.data[k * b.k_stride + n * b.n_stride]; }

float factor_of(const Source& b, int64_t column) { return b.n_scale ? b.n_scale[column] : 1.0f; }

// Where a column is packed.
struct Place {
  uint8_t* panel;
  int64_t column, pieces;

  // Byte j of K of a piece.
  uint8_t* at(int64_t j, int64_t piece = 0) const {
    const int64_t block = j / kLine * pieces + piece, group = j % kLine / kGroup;
    return panel + block * kPanel * kLine + (group * kPanel + column % kPanel) * kGroup + j % kGroup;
  }
};

float largest_size(const Source& b, int64_t k, int64_t column) {
  float largest = 0.0f;
  for (int64_t i = 0; i < k; ++i) {
    const float value = element(b, i, column);
    if (!std::isfinite(value)) return std::numeric_limits<float>::quiet_NaN();
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

// Its scale, and the scale times the sum of what is packed.
std::pair<float, float> pack_int8(const Source& b, int64_t k, const Place& to) {
  const float step = largest_size(b, k, to.column) / 127.0f, scale = step * factor_of(b, to.column);
  int64_t sum = 0;
  for (int64_t i = 0; i < k && step > 0.0f; ++i) {
    const auto value = static_cast<int8_t>(std::lrint(element(b, i, to.column) / step));
    std::memcpy(to.at(i), &value, 1);
    sum += value;
  }
  return {scale, scale * static_cast<float>(sum)};
}

// In bf16, of as many pieces as the place has.
void pack_bf16(const Source& b, int64_t k, const Place& to) {
  for (int64_t i = 0; i < k; ++i) {
    float rest = element(b, i, to.column) * factor_of(b, to.column);
    for (int64_t piece = 0; piece < to.pieces; ++piece) {
      const uint16_t value = take_bfloat16(rest);
      std::memcpy(to.at(2 * i, piece), &value, 2);
    }
  }
}

}  // namespace

PackedColumns::PackedColumns(Number number, const Source& b, int64_t k, int64_t n, const float* bias, int threads)
    : number_(number),
      k_(k),
      n_(n),
      panels_(panels_of(n) * Columns(number, k, n).stride),
      bias_(panels_of(n) * kPanel) {
  if (number == Number::int8) {
    scale_.resize(bias_.size());
    sum_.resize(bias_.size());
  }
  const int64_t stride = Columns(number, k, n).stride;
  parallel_for(n, kPanel, threads, [&](int64_t first, int64_t last) {
    for (int64_t column = first; column < last; ++column) {
      const Place place{panels_.data() + column / kPanel * stride, column, pieces_of(number)};
      if (number == Number::int8) {
        std::tie(scale_[column], sum_[column]) = pack_int8(b, k, place);
      } else {
        pack_bf16(b, k, place);
      }
    }
  });
  if (bias) std::copy(bias, bias + n, bias_.begin());
}

Columns PackedColumns::view() const {
  Columns columns(number_, k_, n_);
  columns.panels = panels_.data();
  columns.bias = bias_.data();
  columns.scale = scale_.data();
  columns.sum = sum_.data();
  return columns;
}

const Kernels& kernels(Number number) {
#if defined(COFI_HAS_AMX)
  if (has_amx()) return number == Number::int8 ? kInt8Amx : number == Number::bf16 ? kBf16Amx : kSplitAmx;
#endif
  if (number == Number::split) return kSplitPortable;
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
