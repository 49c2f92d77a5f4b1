// Products on AMX: registers of 16 rows of 64 bytes, one instruction for 16 x 16 sums over 64 bytes of K. The file that
// includes it says how many pieces a number has (COFI_PIECES) and which products of them are added up (COFI_PAIRS:
// piece of the row, of the column), the instruction (COFI_DOT), the types Sums and Vector, and `finish`, which makes of
// sums what is stored.
//
// Two tiles of rows by two panels: each tile that is loaded is used twice. Up to 16 rows are taken by three panels.
// Sums are in registers 0 to 3, rows in 4 and 5, columns in 6 and 7; with one tile of rows, columns are in 5 to 7.
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "cpu/dots/dots.h"

namespace cofi::dots {
namespace {

constexpr int64_t kTileRows = 16, kTileBytes = 1024, kPieces = COFI_PIECES;
constexpr struct {
  int row, column;
} kPairs[] = COFI_PAIRS;

Vector finish(Sums sum, const Rows& a, int row, const Columns& b, int64_t column, Vector start);

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// For blocks of `rows` rows, up to 32.
void configure(int64_t rows) {
  TileConfig config;
  const auto upper = static_cast<uint8_t>(std::min(rows, kTileRows));
  const auto lower = static_cast<uint8_t>(rows - upper);
  for (int i = 0; i < 8; ++i) {
    config.bytes[i] = kLine;
    config.rows[i] = kTileRows;
  }
  for (int i : {0, 1, 4}) config.rows[i] = upper;
  for (int i : {2, 3, 5}) config.rows[i] = lower > 0 ? lower : kTileRows;
  if (lower == 0) config.rows[2] = upper;
  asm volatile("" ::: "memory");  // the intrinsic does not say that it reads all of it
  _tile_loadconfig(&config);
}

// Panels to fetch into L2: `each` cache lines a line of K.
struct Ahead {
  const uint8_t* from = nullptr;
  int64_t each = 0;

  // All of `panels` panels from one on, in equal parts by `blocks` blocks.
  static Ahead of(const Columns& b, int64_t panel, int64_t panels, int64_t blocks) {
    const int64_t parts = std::max<int64_t>(1, blocks * b.lines * kLine);
    return {b.panels + panel * b.stride, (panels * b.stride + parts - 1) / parts};
  }

  Ahead after(int64_t lines) const { return {from + lines * each * kLine, each}; }

  void fetch() {
    for (int64_t i = 0; i < each; ++i) _mm_prefetch(reinterpret_cast<const char*>(from + i * kLine), _MM_HINT_T1);
    from += each * kLine;
  }
};

// The intrinsics take digits alone.
template <int Tile>
inline void load_tile(const uint8_t* from, int64_t stride) {
  if constexpr (Tile == 4) _tile_loadd(4, from, stride);
  if constexpr (Tile == 5) _tile_loadd(5, from, stride);
  if constexpr (Tile == 6) _tile_loadd(6, from, stride);
  if constexpr (Tile == 7) _tile_loadd(7, from, stride);
}

// The sums of `Tiles` tiles of rows by `Panels` panels.
template <int Tiles, int Panels>
struct Block {
  static constexpr int kFirstColumn = Tiles == 2 ? 6 : 5;

  static void clear() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }

  static void load_rows(const uint8_t* from, int64_t stride) {
    load_tile<4>(from, stride);
    if constexpr (Tiles == 2) load_tile<5>(from + kTileRows * stride, stride);
  }

  static void load_columns(const uint8_t* from, int64_t stride) {
    load_tile<kFirstColumn>(from, kLine);
    if constexpr (Panels > 1) load_tile<kFirstColumn + 1>(from + stride, kLine);
    if constexpr (Panels > 2) load_tile<kFirstColumn + 2>(from + 2 * stride, kLine);
  }

  static void add() {
    if constexpr (Tiles == 2) {
      COFI_DOT(0, 4, 6);
      COFI_DOT(2, 5, 6);
      if constexpr (Panels > 1) {
        COFI_DOT(1, 4, 7);
        COFI_DOT(3, 5, 7);
      }
    } else {
      COFI_DOT(0, 4, 5);
      if constexpr (Panels > 1) COFI_DOT(1, 4, 6);
      if constexpr (Panels > 2) COFI_DOT(2, 4, 7);
    }
  }

  // Rows of Panels x 16 sums.
  static void store(uint8_t* to) {
    constexpr int64_t kStride = Panels * kLine;
    _tile_stored(0, to, kStride);
    if constexpr (Panels > 1) _tile_stored(1, to + kLine, kStride);
    if constexpr (Tiles == 2) _tile_stored(2, to + kTileRows * kStride, kStride);
    if constexpr (Tiles == 1 && Panels > 2) _tile_stored(2, to + 2 * kLine, kStride);
    if constexpr (Tiles == 2 && Panels > 1) _tile_stored(3, to + kTileRows * kStride + kLine, kStride);
  }

  // One pair of pieces after the other; of a pair only what the one before it did not have is loaded.
  template <std::size_t Pair = 0>
  static void add_pairs(const uint8_t* rows, int64_t row_stride, const uint8_t* columns, int64_t panel_stride) {
    if constexpr (Pair < sizeof(kPairs) / sizeof(kPairs[0])) {
      constexpr auto pair = kPairs[Pair], last = kPairs[Pair > 0 ? Pair - 1 : 0];
      if constexpr (Pair == 0 || pair.row != last.row) load_rows(rows + pair.row * kLine, row_stride);
      if constexpr (Pair == 0 || pair.column != last.column) {
        load_columns(columns + pair.column * kTileBytes, panel_stride);
      }
      add();
      add_pairs<Pair + 1>(rows, row_stride, columns, panel_stride);
    }
  }

  // `rows` rows of C.
  static void run(const Rows& a, const Columns& b, int64_t panel, float* c, int64_t ldc, int64_t rows, bool accumulate,
                  Ahead ahead) {
    const uint8_t* row = a.data;
    const uint8_t* columns = b.panels + panel * b.stride;
    clear();
    for (int64_t line = 0; line < b.lines; ++line) {
      ahead.fetch();
      add_pairs(row, a.ld, columns, b.stride);
      row += kPieces * kLine;
      columns += kPieces * kTileBytes;
    }
    alignas(64) uint8_t sums[Tiles * Panels * kTileBytes];
    store(sums);
    for (int p = 0; p < Panels; ++p) {
      const int64_t column = (panel + p) * kPanel;
      const auto mask = static_cast<__mmask16>(0xffffu >> (kPanel - std::min(kPanel, b.n - column)));
      const Vector bias = *reinterpret_cast<const Vector*>(b.bias + column);
      for (int64_t r = 0; r < rows; ++r) {
        float* out = c + r * ldc + p * kPanel;
        const Vector start = accumulate ? Vector(_mm512_maskz_loadu_ps(mask, out)) : bias;
        const Sums sum = *reinterpret_cast<const Sums*>(sums + (r * Panels + p) * kLine);
        _mm512_mask_storeu_ps(out, mask, finish(sum, a, static_cast<int>(r), b, column, start));
      }
    }
  }
};

using Run = void (*)(const Rows&, const Columns&, int64_t, float*, int64_t, int64_t, bool, Ahead);

Run block_of(int64_t height, int64_t panels) {
  static constexpr Run kTwoTiles[] = {Block<2, 1>::run, Block<2, 2>::run};
  static constexpr Run kOneTile[] = {Block<1, 1>::run, Block<1, 2>::run, Block<1, 3>::run};
  return height > kTileRows ? kTwoTiles[panels - 1] : kOneTile[panels - 1];
}

// As many blocks of `height` rows as `m` holds. The first block of rows waits for its weights; those after it fetch the
// panels that come next.
void rows_by_panels(const Rows& a, const Columns& b, int64_t first, int64_t last, float* c, int64_t ldc, int64_t m,
                    int64_t height, bool accumulate) {
  const int64_t most = height > kTileRows ? 2 : 3;
  configure(height);
  for (int64_t panel = first; panel < last; panel += most) {
    const int64_t panels = std::min(most, last - panel), next = std::min(most, last - panel - panels);
    const Run run = block_of(height, panels);
    Ahead ahead;
    for (int64_t row = 0; row + height <= m; row += height) {
      run(a.from(row), b, panel, c + row * ldc + panel * kPanel, ldc, height, accumulate, ahead);
      ahead = row == 0 ? Ahead::of(b, panel + panels, next, m / height - 1) : ahead.after(b.lines);
    }
  }
}

void multiply(const Rows& a, const Columns& b, int64_t first, int64_t last, float* c, int64_t ldc, int64_t m,
              bool accumulate) {
  constexpr int64_t kMost = 2 * kTileRows;
  const int64_t whole = m / kMost * kMost, rest = m - whole;
  if (whole > 0) rows_by_panels(a, b, first, last, c, ldc, whole, kMost, accumulate);
  if (rest > 0) rows_by_panels(a.from(whole), b, first, last, c + whole * ldc, ldc, rest, rest, accumulate);
  _tile_release();
}

}  // namespace
}  // namespace cofi::dots
