#include "cpu/gemm/gemm.h"

#include <algorithm>

#include "common/parallel.h"

namespace cofi::gemm {
namespace {

constexpr int64_t kRowsAtATime = 96;    // of C to a thread: a multiple of every tile's rows, A's part fits L2
constexpr int64_t kPanelsAtATime = 12;  // of B to a thread

}  // namespace

void pack_rows(const Source& b, int64_t k, int64_t n, float* panels, int threads) {
  const Kernels& use = kernels();
  parallel_for(panels_of(n), 4, threads,
               [&](int64_t first, int64_t last) { use.pack_rows(b, k, n, first, last, panels); });
}

void pack_columns(const Source& b, int64_t k, int64_t n, float* panels, int threads) {
  const Kernels& use = kernels();
  parallel_for(panels_of(n), 4, threads,
               [&](int64_t first, int64_t last) { use.pack_columns(b, k, n, first, last, panels); });
}

void multiply(const float* a, int64_t lda, const float* panels, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
              const Finish& finish, int threads) {
  const Kernels& use = kernels();
  const int64_t row_parts = (m + kRowsAtATime - 1) / kRowsAtATime;
  const int64_t column_parts = (panels_of(n) + kPanelsAtATime - 1) / kPanelsAtATime;
  parallel_for(row_parts * column_parts, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t row = part % row_parts * kRowsAtATime, panel = part / row_parts * kPanelsAtATime;
      const int64_t rows = std::min(kRowsAtATime, m - row), column = panel * kPanel;
      const int64_t columns = std::min(kPanelsAtATime * kPanel, n - column);
      Finish part_finish = finish;
      if (finish.bias) part_finish.bias = finish.bias + column;
      use.multiply(a + row * lda, lda, panels + panel * k * kPanel, c + row * ldc + column, ldc, rows, columns, k,
                   part_finish);
    }
  });
}

void transpose(const float* in, int64_t ldi, int64_t rows, int64_t cols, float* out, int64_t ldo, int threads) {
  const Kernels& use = kernels();
  parallel_for(rows, 64, threads, [&](int64_t begin, int64_t end) {
    use.transpose(in + begin * ldi, ldi, end - begin, cols, out + begin, ldo);
  });
}

}  // namespace cofi::gemm
