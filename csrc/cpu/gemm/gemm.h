// Matrix products of fp32 with one operand packed beforehand: what every CPU kernel of Transformers is made of here.
//
// B (K x N) is kept in panels of 16 columns: element (k, n) at panels[(n / 16) * K * 16 + k * 16 + n % 16], zeros where
// n runs beyond N. The layout is the same for every instruction set, so packing once serves whatever isa() says later.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cofi::gemm {

constexpr int64_t kPanel = 16;

inline int64_t panels_of(int64_t n) { return (n + kPanel - 1) / kPanel; }

// Floats that a packed K x N matrix takes.
inline int64_t packed_size(int64_t k, int64_t n) { return panels_of(n) * kPanel * k; }

// Where B comes from. Null pointers: all rows in order, factor 1.
struct Source {
  const float* data;
  int64_t ld;                      // elements from one row in memory to the next
  const int32_t* index = nullptr;  // which rows in memory are taken, in this order
  const float* k_scale = nullptr;  // (K,) and (N,) factors of B's rows and columns, numbered as in B
  const float* n_scale = nullptr;
};

// Panels of B from one of them on, `stride` floats from each to the next. Null: none.
struct Panels {
  const float* first = nullptr;
  int64_t stride = 0;
};

// What is done with a product before it is stored, in this order; and what comes after it.
struct Finish {
  const float* bias = nullptr;  // (N,) added to every row
  bool accumulate = false;      // add to what C holds
  Panels next;                  // of the product after this one: fetched into the cache meanwhile
};

struct Kernels {
  // panels[first .. last) of B, whose row k is row k of the source: B(k, n) = data[index[k] * ld + n].
  void (*pack_rows)(const Source& b, int64_t k, int64_t n, int64_t first, int64_t last, float* panels);
  // The same for the transpose, whose column n is row n of the source: B(k, n) = data[index[n] * ld + k].
  void (*pack_columns)(const Source& b, int64_t k, int64_t n, int64_t first, int64_t last, float* panels);
  // C (M x N, ldc) = A (M x K, lda) * B. Any sizes, 0 among them. A and C must not overlap.
  void (*multiply)(const float* a, int64_t lda, const float* panels, float* c, int64_t ldc, int64_t m, int64_t n,
                   int64_t k, const Finish& finish);
  // out (cols x rows, ldo) = transpose of in (rows x cols, ldi)
  void (*transpose)(const float* in, int64_t ldi, int64_t rows, int64_t cols, float* out, int64_t ldo);
};

extern const Kernels kPortable, kAvx2, kAvx512;

// The version for the instructions in use. One thread runs each call.
const Kernels& kernels();

// The same work on up to `threads` threads. The result does not depend on how many there are.
void pack_rows(const Source& b, int64_t k, int64_t n, float* panels, int threads);
void pack_columns(const Source& b, int64_t k, int64_t n, float* panels, int threads);
void multiply(const float* a, int64_t lda, const float* panels, float* c, int64_t ldc, int64_t m, int64_t n, int64_t k,
              const Finish& finish, int threads);
void transpose(const float* in, int64_t ldi, int64_t rows, int64_t cols, float* out, int64_t ldo, int threads);

}  // namespace cofi::gemm
