// One source for every instruction set: COFI_LANES 32-bit sums a vector, `dot` that adds four products to each, and
// `multiply_add` a b + c. Left to the compiler, tiles of different heights fuse it or not, and bits would depend on how
// rows are shared out.
#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/int8/int8.h"

namespace cofi::int8 {
namespace {

constexpr int kLanes = COFI_LANES;
constexpr int kVectors = kPanel / kLanes;   // vectors in a group of a panel
constexpr int64_t kStep = kPanel * kGroup;  // bytes of a group of a panel
constexpr float kSmallestRange = 1e-30f;    // of a row's values; below it the row is taken to be constant

typedef int32_t SharedInt __attribute__((aligned(1), may_alias));

// A tile of C: Rows x (Panels * 16) sums in registers over the whole depth.
template <int Rows, int Panels>
void tile(const uint8_t* a, int64_t lda, const float* scale, const float* low, const Columns& b, int64_t panel,
          float* c, int64_t ldc, bool accumulate) {
  constexpr int kWidth = Panels * kVectors;
  const int64_t groups = groups_of(b.k), stride = groups * kStep;
  const int8_t* weights = b.panels.data() + panel * stride;
  Sums sum[Rows][kWidth];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kWidth; ++v) sum[r][v] = Sums{};
  }
  for (int64_t group = 0; group < groups; ++group) {
    Sums row[kWidth];
    for (int v = 0; v < kWidth; ++v) {
      std::memcpy(&row[v], weights + (v / kVectors) * stride + (v % kVectors) * kLanes * kGroup, sizeof(Sums));
    }
    weights += kStep;
    for (int r = 0; r < Rows; ++r) {
      const Sums four = Sums{} + *reinterpret_cast<const SharedInt*>(a + r * lda + group * kGroup);
      for (int v = 0; v < kWidth; ++v) sum[r][v] = dot(sum[r][v], four, row[v]);
    }
  }
  for (int v = 0; v < kWidth; ++v) {
    const int64_t column = panel * kPanel + v * kLanes;
    const Vector factor = *reinterpret_cast<const Vector*>(b.scale.data() + column);
    const Vector total = *reinterpret_cast<const Vector*>(b.sum.data() + column);
    const Vector bias = *reinterpret_cast<const Vector*>(b.bias.data() + column);
    for (int r = 0; r < Rows; ++r) {
      Vector& out = *reinterpret_cast<Vector*>(c + r * ldc + v * kLanes);
      const Vector start = accumulate ? out : bias;
      const Vector product = __builtin_convertvector(sum[r][v], Vector);
      out = multiply_add(product, factor * scale[r], multiply_add(total, Vector{} + low[r], start));
    }
  }
}

using Tile = void (*)(const uint8_t*, int64_t, const float*, const float*, const Columns&, int64_t, float*, int64_t,
                      bool);

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
    const uint8_t* q = a.q + row * a.ld;
    float* out = c + row * ldc;
    if (width == padded) {
      run(q, a.ld, a.scale + row, a.low + row, b, panel, out, ldc, accumulate);
    } else {
      for (int r = 0; r < rows && accumulate; ++r)
        std::memcpy(block + r * padded, out + r * ldc, width * sizeof(float));
      run(q, a.ld, a.scale + row, a.low + row, b, panel, block, padded, accumulate);
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

struct Range {
  float low, high;
  bool finite;
};

Range range_of(const float* x, int64_t n) {
  constexpr int kWide = 32;
  if (n < kWide) {
    Range range{n > 0 ? x[0] : 0.0f, n > 0 ? x[0] : 0.0f, true};
    for (int64_t i = 0; i < n; ++i) {
      range = {std::min(range.low, x[i]), std::max(range.high, x[i]), range.finite && x[i] - x[i] == 0.0f};
    }
    return range;
  }
  float low[kWide], high[kWide], odd[kWide] = {};  // odd: 0, or NaN after a value that is not finite
  std::copy(x, x + kWide, low);
  std::copy(x, x + kWide, high);
  for (int64_t i = 0; i < n; i += kWide) {
    const float* from = x + std::min(i, n - kWide);  // the last block may take values again
    for (int j = 0; j < kWide; ++j) {
      low[j] = from[j] < low[j] ? from[j] : low[j];
      high[j] = from[j] > high[j] ? from[j] : high[j];
      odd[j] += from[j] - from[j];
    }
  }
  Range range{low[0], high[0], true};
  for (int j = 0; j < kWide; ++j) {
    range = {std::min(range.low, low[j]), std::max(range.high, high[j]), range.finite && odd[j] == 0.0f};
  }
  return range;
}

void quantize(const float* x, int64_t ldx, int64_t m, int64_t k, const Rows& to) {
  for (int64_t r = 0; r < m; ++r) {
    const float* row = x + r * ldx;
    uint8_t* q = to.q + r * to.ld;
    const Range range = range_of(row, k);
    const float width = range.high - range.low;
    std::memset(q + k, 0, row_bytes(k) - k);
    to.low[r] = range.low;
    if (!range.finite || !(width < std::numeric_limits<float>::infinity()) || width < kSmallestRange) {
      std::memset(q, 0, k);
      to.scale[r] = range.finite && width < kSmallestRange ? 0.0f : std::numeric_limits<float>::quiet_NaN();
      continue;
    }
    to.scale[r] = width / 255.0f;
    const float factor = 255.0f / width, shift = range.low;
    for (int64_t i = 0; i < k; ++i) q[i] = static_cast<uint8_t>(static_cast<int>((row[i] - shift) * factor + 0.5f));
  }
}

const Kernels kKernels = {quantize, multiply};

}  // namespace
}  // namespace cofi::int8
