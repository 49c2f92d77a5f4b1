// Matrices as they lie in memory, packed 16 units by 32 numbers of K at a time.
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "cpu/dots/dots.h"
#include "cpu/dots/pieces.inl"

namespace cofi::dots {
namespace {

constexpr int64_t kUnits = 16, kNumbers = kLine / 2;

// 16 vectors of 16 x 32 bits.
void transpose(__m512i v[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {  // pairs of 32 bits
    t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {  // of 64
    for (int j = 0; j < 2; ++j) {
      v[4 * i + 2 * j] = _mm512_unpacklo_epi64(t[4 * i + j], t[4 * i + j + 2]);
      v[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(t[4 * i + j], t[4 * i + j + 2]);
    }
  }
  for (int i = 0; i < 2; ++i) {  // of 128
    for (int j = 0; j < 4; ++j) {
      t[8 * i + j] = _mm512_shuffle_i32x4(v[8 * i + j], v[8 * i + 4 + j], 0x88);
      t[8 * i + 4 + j] = _mm512_shuffle_i32x4(v[8 * i + j], v[8 * i + 4 + j], 0xdd);
    }
  }
  for (int j = 0; j < 4; ++j) {
    v[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
    v[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
    v[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
    v[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
  }
}

// 16 numbers of one vector and of another in turns.
inline __m512i in_turns(__m512i halves) {
  const __m512i even = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(halves));
  const __m512i odd = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(halves, 1));
  return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
}

inline __m512 scaled(__m512 x, const float* scale, __mmask16 mask) {
  return _mm512_mul_ps(x, _mm512_maskz_loadu_ps(mask, scale));
}

// The 16 x 16 pairs of numbers of each piece: out[piece][unit] where K runs along memory, else out[piece][pair].
template <int Pieces>
void load_along(const Units& from, int64_t unit, int64_t k, __m512i out[Pieces][16]) {
  const __mmask16 low_mask = first_lanes(from.k - k), high_mask = first_lanes(from.k - k - 16);
  for (int64_t j = 0; j < kUnits; ++j) {
    const bool inside = unit + j < from.n;
    const float* row = from.data + (inside ? unit + j : unit) * from.ld + k;
    __m512 low = _mm512_maskz_loadu_ps(inside ? low_mask : __mmask16{0}, row);
    __m512 high = _mm512_maskz_loadu_ps(inside ? high_mask : __mmask16{0}, row + 16);
    if (from.k_scale) {
      low = scaled(low, from.k_scale + k, low_mask);
      high = scaled(high, from.k_scale + k + 16, high_mask);
    }
    if (from.n_scale && inside) {
      low = _mm512_mul_ps(low, _mm512_set1_ps(from.n_scale[unit + j]));
      high = _mm512_mul_ps(high, _mm512_set1_ps(from.n_scale[unit + j]));
    }
    for (int piece = 0; piece < Pieces; ++piece) out[piece][j] = take_piece(low, high);
  }
}

template <int Pieces>
void load_across(const Units& from, int64_t unit, int64_t k, __m512i out[Pieces][16]) {
  const __mmask16 mask = first_lanes(from.n - unit);
  const __m512 n_scale = from.n_scale ? _mm512_maskz_loadu_ps(mask, from.n_scale + unit) : _mm512_set1_ps(1.0f);
  const auto row = [&](int64_t i) {
    if (i >= from.k) return _mm512_setzero_ps();
    const __m512 values = _mm512_maskz_loadu_ps(mask, from.data + i * from.ld + unit);
    const __m512 scale = from.k_scale ? _mm512_mul_ps(n_scale, _mm512_set1_ps(from.k_scale[i])) : n_scale;
    return _mm512_mul_ps(values, scale);
  };
  for (int64_t pair = 0; pair < kNumbers / 2; ++pair) {
    __m512 even = row(k + 2 * pair), odd = row(k + 2 * pair + 1);
    for (int piece = 0; piece < Pieces; ++piece) out[piece][pair] = in_turns(take_piece(even, odd));
  }
}

// `next` bytes from one vector of a block to the next, `piece_stride` from one piece, and so from one line, to the
// next. as_panel: vectors of pairs; else of units.
template <int Pieces>
void pack_lines(const Units& from, int64_t unit, uint8_t* to, bool as_panel, int64_t next, int64_t vectors,
                int64_t piece_stride) {
  __m512i block[Pieces][16];
  for (int64_t k = 0; k < from.k; k += kNumbers, to += Pieces * piece_stride) {
    from.across ? load_across<Pieces>(from, unit, k, block) : load_along<Pieces>(from, unit, k, block);
    for (int piece = 0; piece < Pieces; ++piece) {
      if (from.across != as_panel) transpose(block[piece]);
      for (int64_t i = 0; i < vectors; ++i) _mm512_storeu_si512(to + piece * piece_stride + i * next, block[piece][i]);
    }
  }
}

auto lines_packer(Number number) { return number == Number::split ? pack_lines<3> : pack_lines<1>; }

}  // namespace

void pack_panels(Number number, const Units& from, int64_t first, int64_t last, uint8_t* to) {
  for (int64_t unit = first; unit < last; unit += kUnits) {
    uint8_t* panel = to + unit * row_bytes(number, from.k);
    lines_packer(number)(from, unit, panel, true, kLine, kUnits, kUnits * kLine);
  }
}

void pack_rows(Number number, const Units& from, int64_t first, int64_t last, uint8_t* to, int64_t ld) {
  for (int64_t unit = first; unit < last; unit += kUnits) {
    lines_packer(number)(from, unit, to + unit * ld, false, ld, std::min(kUnits, last - unit), kLine);
  }
}

}  // namespace cofi::dots
