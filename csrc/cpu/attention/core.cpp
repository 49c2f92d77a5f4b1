// One head of one sequence is one piece of work. Queries are taken some rows at a time, so that their scores stay in
// the core's cache; a sequence's keys and values are packed once.
#include "cpu/attention/core.h"

#include <algorithm>
#include <cmath>

#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/gemm/gemm.h"

namespace cofi::attention {
namespace {

constexpr int64_t kQueries = 128;  // rows of scores at a time: with 128 keys 64 KB

using gemm::packed_size;
using gemm::panels_of;

// One head of one sequence.
struct Piece {
  const Problem& problem;
  int64_t head, begin, n;

  int64_t ld() const { return 3 * problem.heads * problem.head_dim; }
  int64_t ld_context() const { return problem.heads * problem.head_dim; }
  int64_t row(int64_t part, int64_t t) const {  // of qkv: its query (0), key (1) or value (2)
    return (begin + t) * ld() + (part * problem.heads + head) * problem.head_dim;
  }
  int64_t context_row(int64_t t) const { return (begin + t) * ld_context() + head * problem.head_dim; }
  gemm::Source source(int64_t part) const { return {problem.qkv + row(part, 0), ld()}; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(problem.head_dim)); }

  Block block(int64_t first, int64_t m) const {
    const int64_t number = problem.numbers ? problem.numbers[head] : head;
    const int64_t row = number * problem.tokens + begin + first;
    return {m, n, panels_of(n) * gemm::kPanel, row * problem.max_seqlen, problem.max_seqlen};
  }
};

template <typename Body>
void for_each_piece(const Problem& problem, int threads, const Body& body) {
  parallel_for(problem.sequences * problem.heads, 1, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t sequence = i / problem.heads, begin = problem.bounds[sequence];
      const Piece piece{problem, i % problem.heads, begin, problem.bounds[sequence + 1] - begin};
      if (piece.n > 0) body(piece);
    }
  });
}

// Parts of one buffer, each on a cache line.
class Room {
 public:
  explicit Room(float* memory) : next_(memory) {}
  float* take(int64_t n) {
    float* start = next_;
    next_ += aligned(n);
    return start;
  }
  static int64_t aligned(int64_t n) { return (n + 15) / 16 * 16; }

 private:
  float* next_;
};

void forward_piece(const Piece& piece, float* context, float* lse) {
  const gemm::Kernels& products = gemm::kernels();
  const int64_t n = piece.n, dim = piece.problem.head_dim, padded = panels_of(n) * gemm::kPanel;
  thread_local Buffer buffer;
  Room room(buffer.at_least<float>(packed_size(dim, n) + packed_size(n, dim) + kQueries * padded + padded + 64));
  float *keys = room.take(packed_size(dim, n)), *values = room.take(packed_size(n, dim));
  float *scores = room.take(kQueries * padded), *noise = room.take(padded);
  products.pack_columns(piece.source(1), dim, n, 0, panels_of(n), keys);
  products.pack_rows(piece.source(2), n, dim, 0, panels_of(dim), values);
  for (int64_t first = 0; first < n; first += kQueries) {
    const int64_t m = std::min(kQueries, n - first);
    products.multiply(piece.problem.qkv + piece.row(0, first), piece.ld(), keys, scores, padded, m, n, dim, {});
    kernels().softmax(scores, piece.block(first, m), piece.scale(), piece.problem.dropout,
                      lse + piece.head * piece.problem.tokens + piece.begin + first, noise);
    products.multiply(scores, padded, values, context + piece.context_row(first), piece.ld_context(), m, dim, n, {});
  }
}

struct Gradients {
  const float *context, *lse, *dcontext;
  float* dqkv;
};

// Sums over queries go block by block into dk and dv.
void backward_piece(const Piece& piece, const Gradients& g) {
  const gemm::Kernels& products = gemm::kernels();
  const Problem& problem = piece.problem;
  const int64_t n = piece.n, dim = problem.head_dim, padded = panels_of(n) * gemm::kPanel, ld = piece.ld();
  thread_local Buffer buffer;
  Room room(buffer.at_least<float>(2 * packed_size(dim, n) + packed_size(n, dim) + 3 * kQueries * padded +
                                   packed_size(kQueries, dim) + padded + 128));
  float *keys = room.take(packed_size(dim, n)), *values = room.take(packed_size(dim, n));
  float *key_rows = room.take(packed_size(n, dim)), *queries = room.take(packed_size(kQueries, dim));
  float *scores = room.take(kQueries * padded), *dp = room.take(kQueries * padded);
  float *turned = room.take(kQueries * padded), *noise = room.take(padded);
  products.pack_columns(piece.source(1), dim, n, 0, panels_of(n), keys);
  products.pack_columns(piece.source(2), dim, n, 0, panels_of(n), values);
  products.pack_rows(piece.source(1), n, dim, 0, panels_of(dim), key_rows);
  for (int64_t first = 0; first < n; first += kQueries) {
    const int64_t m = std::min(kQueries, n - first), at = piece.context_row(first);
    const float* query = problem.qkv + piece.row(0, first);
    const float* dc = g.dcontext + at;
    products.multiply(query, ld, keys, scores, padded, m, n, dim, {});
    products.multiply(dc, piece.ld_context(), values, dp, padded, m, n, dim, {});
    kernels().softmax_backward(scores, dp, piece.block(first, m), piece.scale(), problem.dropout,
                               g.lse + piece.head * problem.tokens + piece.begin + first, dc, g.context + at,
                               piece.ld_context(), dim, noise);
    products.multiply(dp, padded, key_rows, g.dqkv + piece.row(0, first), ld, m, dim, n, {});
    gemm::Finish add;
    add.accumulate = first > 0;
    products.pack_rows({query, ld}, m, dim, 0, panels_of(dim), queries);
    products.transpose(dp, padded, m, n, turned, m);
    products.multiply(turned, m, queries, g.dqkv + piece.row(1, 0), ld, n, dim, m, add);
    products.pack_rows({dc, piece.ld_context()}, m, dim, 0, panels_of(dim), queries);
    products.transpose(scores, padded, m, n, turned, m);
    products.multiply(turned, m, queries, g.dqkv + piece.row(2, 0), ld, n, dim, m, add);
  }
}

}  // namespace

void forward(const Problem& problem, float* context, float* lse, int threads) {
  for_each_piece(problem, threads, [&](const Piece& piece) { forward_piece(piece, context, lse); });
}

void backward(const Problem& problem, const float* context, const float* lse, const float* dcontext, float* dqkv,
              int threads) {
  const Gradients gradients{context, lse, dcontext, dqkv};
  for_each_piece(problem, threads, [&](const Piece& piece) { backward_piece(piece, gradients); });
}

}  // namespace cofi::attention
