// One source for every instruction set: COFI_LANES floats a vector, tiles chosen for the number of vector registers.
#include <algorithm>
#include <cstring>
#include <utility>

#include "cpu/gemm/gemm.h"

namespace cofi::gemm {
namespace {

constexpr int kLanes = COFI_LANES;
constexpr int kVectors = kPanel / kLanes;  // vectors in a row of a panel
constexpr int64_t kDepth = 1024;           // of K at a time: three panels of that depth are 192 KB, inside L2
constexpr int kIntoL2 = 2;                 // "moderate locality", as __builtin_prefetch counts

// The compiler's vectors: may_alias and aligned(4), since they are read from and written to any float array.
typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));

// A tile of C: Rows x (Panels * 16) in registers over the whole depth. Broadcasts of A cost a load each, so a tile is
// wide enough that loads (Rows + Panels * kVectors) stay below half of its multiplications. ahead: a panel that will be
// read later.
template <int Rows, int Panels>
void tile(const float* a, int64_t lda, const float* b, int64_t stride, float* c, int64_t ldc, int64_t depth,
          const float* bias, bool accumulate, const float* ahead) {
  constexpr int kWidth = Panels * kVectors;
  Vector sum[Rows][kWidth];
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kWidth; ++v) {
      sum[r][v] = bias ? *reinterpret_cast<const Vector*>(bias + v * kLanes) : Vector{};
      if (accumulate) sum[r][v] += *reinterpret_cast<const Vector*>(c + r * ldc + v * kLanes);
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
    Vector row[kWidth];
    for (int v = 0; v < kWidth; ++v) {
      row[v] = *reinterpret_cast<const Vector*>(b + (v / kVectors) * stride + (v % kVectors) * kLanes);
    }
    b += kPanel;
    __builtin_prefetch(ahead + k * kPanel, 0, kIntoL2);
    for (int r = 0; r < Rows; ++r) {
      const float factor = a[r * lda + k];
      for (int v = 0; v < kWidth; ++v) sum[r][v] += row[v] * factor;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int v = 0; v < kWidth; ++v) *reinterpret_cast<Vector*>(c + r * ldc + v * kLanes) = sum[r][v];
  }
}

using Tile = void (*)(const float*, int64_t, const float*, int64_t, float*, int64_t, int64_t, const float*, bool,
                      const float*);

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
  if constexpr (kMaxPanels >= 4) {
    if (panels == 4) return tile_of<4>(rows);
  }
  if constexpr (kMaxPanels >= 3) {
    if (panels == 3) return tile_of<3>(rows);
  }
  if constexpr (kMaxPanels >= 2) {
    if (panels == 2) return tile_of<2>(rows);
  }
  return tile_of<1>(rows);
}

// How many panels to take of those left: three where that leaves none alone.
int64_t take_panels(int64_t left) {
  if (kMaxPanels < 3 || left <= 2) return std::min<int64_t>(left, kMaxPanels);
  return left == 4 ? 4 : (left % 3 == 1 && left >= 4 ? 4 : 3);
}

// The last panel of C may be narrower than 16: it is computed beside C and copied.
void edge(Tile run, int rows, const float* a, int64_t lda, const float* b, int64_t stride, float* c, int64_t ldc,
          int64_t depth, const float* bias, bool accumulate, const float* ahead, int64_t width, int64_t padded) {
  alignas(64) float block[16 * 4 * kPanel];
  alignas(64) float padded_bias[4 * kPanel];
  if (bias) {
    std::memset(padded_bias, 0, sizeof(padded_bias));
    std::memcpy(padded_bias, bias, width * sizeof(float));
  }
  if (accumulate) {
    for (int r = 0; r < rows; ++r) {
      std::memset(block + r * padded, 0, padded * sizeof(float));
      std::memcpy(block + r * padded, c + r * ldc, width * sizeof(float));
    }
  }
  run(a, lda, b, stride, block, padded, depth, bias ? padded_bias : nullptr, accumulate, ahead);
  for (int r = 0; r < rows; ++r) std::memcpy(c + r * ldc, block + r * padded, width * sizeof(float));
}

// All rows of C for a few panels, `depth` of K from k0 on. The first block of rows waits for its weights, from the
// last-level cache or memory; the blocks after it have them in L2 and fetch a panel each of the strip after this one.
void strip(const float* a, int64_t lda, const float* b, int64_t stride, int64_t panels, float* c, int64_t ldc,
           int64_t m, int64_t width, int64_t depth, const float* bias, bool accumulate, const Panels& next) {
  const int64_t most = kMaxRows[panels], blocks = (m + most - 1) / most;
  int64_t row = 0;
  for (int64_t block = 0; block < blocks; ++block) {
    const int rows = static_cast<int>((m - row + blocks - block - 1) / (blocks - block));  // even shares
    const Tile run = tile_of(panels, rows);
    const bool fetches = next.first && block > 0 && block <= kMaxPanels;
    const float* ahead = fetches ? next.first + (block - 1) * next.stride : b;
    if (width == panels * kPanel) {
      run(a + row * lda, lda, b, stride, c + row * ldc, ldc, depth, bias, accumulate, ahead);
    } else {
      edge(run, rows, a + row * lda, lda, b, stride, c + row * ldc, ldc, depth, bias, accumulate, ahead, width,
           panels * kPanel);
    }
    row += rows;
  }
}

void multiply(const float* a, int64_t lda, const float* panels, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
              const Finish& finish) {
  const int64_t n_panels = panels_of(n), stride = k * kPanel;
  for (int64_t first = 0; first < n_panels;) {
    const int64_t taken = take_panels(n_panels - first), column = first * kPanel;
    const int64_t width = std::min(taken * kPanel, n - column);
    const bool is_last = first + taken == n_panels;
    const Panels next = is_last ? finish.next : Panels{panels + (first + taken) * stride, stride};
    int64_t k0 = 0;
    do {  // once even where K is 0: the bias is still to be stored
      const int64_t depth = std::min(kDepth, k - k0);
      const float* bias = finish.bias && k0 == 0 ? finish.bias + column : nullptr;
      strip(a + k0, lda, panels + first * stride + k0 * kPanel, stride, taken, c + column, ldc, m, width, depth, bias,
            finish.accumulate || k0 > 0, next);
      k0 += depth;
    } while (k0 < k);
    first += taken;
  }
}

float factor(const float* scale, int64_t i) { return scale ? scale[i] : 1.0f; }

void pack_rows(const Source& b, int64_t k, int64_t n, int64_t first, int64_t last, float* panels) {
  for (int64_t p = first; p < last; ++p) {
    const int64_t column = p * kPanel, width = std::min(kPanel, n - column);
    alignas(64) float scale[kPanel] = {};
    for (int64_t j = 0; j < width; ++j) scale[j] = factor(b.n_scale, column + j);
    float* out = panels + p * k * kPanel;
    for (int64_t i = 0; i < k; ++i, out += kPanel) {
      const float* row = b.data + (b.index ? b.index[i] : i) * b.ld + column;
      const float times = factor(b.k_scale, i);
      if (width == kPanel) {
        for (int64_t j = 0; j < kPanel; ++j) out[j] = row[j] * (scale[j] * times);
      } else {
        for (int64_t j = 0; j < kPanel; ++j) out[j] = j < width ? row[j] * (scale[j] * times) : 0.0f;
      }
    }
  }
}

void pack_columns(const Source& b, int64_t k, int64_t n, int64_t first, int64_t last, float* panels) {
  for (int64_t p = first; p < last; ++p) {
    const int64_t column = p * kPanel, width = std::min(kPanel, n - column);
    const float* rows[kPanel];
    float scale[kPanel];
    for (int64_t j = 0; j < kPanel; ++j) {
      const int64_t from =
          j < width ? column + j : column;  // what pads a panel is any row times 0, and put right below
      rows[j] = b.data + (b.index ? b.index[from] : from) * b.ld;
      scale[j] = factor(b.n_scale, from);
    }
    float* out = panels + p * k * kPanel;
    for (int64_t i = 0; i < k; ++i, out += kPanel) {
      const float times = factor(b.k_scale, i);
      for (int64_t j = 0; j < kPanel; ++j) out[j] = j < width ? rows[j][i] * (scale[j] * times) : 0.0f;
    }
  }
}

// Blocks of 16 x 16 keep both sides in L1.
void transpose(const float* in, int64_t ldi, int64_t rows, int64_t cols, float* out, int64_t ldo) {
  constexpr int64_t kBlock = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = std::min(r0 + kBlock, rows);
    for (int64_t c0 = 0; c0 < cols; c0 += kBlock) {
      const int64_t c1 = std::min(c0 + kBlock, cols);
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) out[c * ldo + r] = in[r * ldi + c];
      }
    }
  }
}

const Kernels kKernels = {pack_rows, pack_columns, multiply, transpose};

}  // namespace
}  // namespace cofi::gemm
