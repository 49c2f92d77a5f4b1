// Tiles of a product: one source for every kind of number and instruction set. The file that includes it says how many
// 32-bit sums a vector has (COFI_LANES), how many panels and rows a tile has (kMaxPanels, kMaxRows), the types Sums and
// Vector, `dot`, which adds the products of a group to each sum, and `finish`, which makes of sums what is stored.
#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/dots/dots.h"

namespace cofi::dots {
namespace {

constexpr int kLanes = COFI_LANES;
constexpr int kVectors = kPanel / kLanes;   // vectors in a group of a panel
constexpr int64_t kStep = kPanel * kGroup;  // bytes of a group of a panel

typedef int32_t SharedInt __attribute__((aligned(1), may_alias));

// A tile of C: Height x (Panels * 16) sums in registers over the whole depth.
template <int Height, int Panels>
void tile(const Rows& a, const Columns& b, int64_t panel, float* c, int64_t ldc, bool accumulate) {
  constexpr int kWidth = Panels * kVectors;
  const int64_t stride = b.stride;
  const uint8_t* weights = b.panels + panel * stride;
  Sums sum[Height][kWidth];
  for (int r = 0; r < Height; ++r) {
    for (int v = 0; v < kWidth; ++v) sum[r][v] = Sums{};
  }
  for (int64_t group = 0; group < b.groups; ++group) {
    Bits row[kWidth];
    for (int v = 0; v < kWidth; ++v) {
      std::memcpy(&row[v], weights + (v / kVectors) * stride + (v % kVectors) * kLanes * kGroup, sizeof(Bits));
    }
    weights += kStep;
    for (int r = 0; r < Height; ++r) {
      const Bits same = Bits{} + *reinterpret_cast<const SharedInt*>(a.data + r * a.ld + group * kGroup);
      for (int v = 0; v < kWidth; ++v) sum[r][v] = dot(sum[r][v], same, row[v]);
    }
  }
  for (int v = 0; v < kWidth; ++v) {
    const int64_t column = panel * kPanel + v * kLanes;
    const Vector bias = *reinterpret_cast<const Vector*>(b.bias + column);
    for (int r = 0; r < Height; ++r) {
      Vector& out = *reinterpret_cast<Vector*>(c + r * ldc + v * kLanes);
      const Vector start = accumulate ? out : bias;
      out = finish(sum[r][v], a, r, b, column, start);
    }
  }
}

using Tile = void (*)(const Rows&, const Columns&, int64_t, float*, int64_t, bool);

template <int Panels, int... Row>
constexpr Tile pick(std::integer_sequence<int, Row...>, int rows) {
  constexpr Tile kTiles[] = {tile<Row + 1, Panels>...};
  return kTiles[rows - 1];
}

template <int Panels>
Tile tile_of(int rows) {
  return pick<Panels>(std::make_integer_sequence<int, kMaxRows[Panels]>(), rows);
}

Tile tile_of(int64_t panels, int rows) {
  if constexpr (kMaxPanels >= 3) {
    if (panels == 3) return tile_of<3>(rows);
  }
  if constexpr (kMaxPanels >= 2) {
    if (panels == 2) return tile_of<2>(rows);
  }
  return tile_of<1>(rows);
}

// Four panels are taken as two and two.
int64_t take_panels(int64_t left) { return std::min<int64_t>(left == 4 ? 2 : left, kMaxPanels); }

// All rows of C for a few panels; where the last is narrower than 16 they are computed beside C and copied.
void strip(const Rows& a, const Columns& b, int64_t panel, int64_t panels, float* c, int64_t ldc, int64_t m,
           bool accumulate) {
  const int64_t width = std::min(panels * kPanel, b.n - panel * kPanel), padded = panels * kPanel;
  const int64_t most = kMaxRows[panels], blocks = (m + most - 1) / most;
  alignas(64) float block[16 * 3 * kPanel] = {};
  int64_t row = 0;
  for (int64_t i = 0; i < blocks; ++i) {
    const int rows = static_cast<int>((m - row + blocks - i - 1) / (blocks - i));  // even shares
    const Tile run = tile_of(panels, rows);
    float* out = c + row * ldc;
    if (width == padded) {
      run(a.from(row), b, panel, out, ldc, accumulate);
    } else {
      for (int r = 0; r < rows && accumulate; ++r)
        std::memcpy(block + r * padded, out + r * ldc, width * sizeof(float));
      run(a.from(row), b, panel, block, padded, accumulate);
      for (int r = 0; r < rows; ++r) std::memcpy(out + r * ldc, block + r * padded, width * sizeof(float));
    }
    row += rows;
  }
}

void multiply(const Rows& a, const Columns& b, int64_t first, int64_t last, float* c, int64_t ldc, int64_t m,
              bool accumulate) {
  for (int64_t panel = first; panel < last;) {
    const int64_t taken = take_panels(last - panel);
    strip(a, b, panel, taken, c + panel * kPanel, ldc, m, accumulate);
    panel += taken;
  }
}

}  // namespace
}  // namespace cofi::dots
