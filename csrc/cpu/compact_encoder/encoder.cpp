// A call: chunks of whole sequences, one after the other, which the threads take through all layers together. Either
// they share the rows and meet once an attention sublayer, where the keys of others are read; or, where rows are few,
// they share the columns of every product, so that each weight is read by one thread alone, and meet after each. Keys
// and values alternate between two buffers, so that no second meeting is needed before they are overwritten.
#include "cpu/compact_encoder/encoder.h"

#include <algorithm>
#include <cstring>

#include "common/parallel.h"
#include "common/scratch.h"
#include "cpu/compact_encoder/sizes.h"
#include "cpu/gemm/gemm.h"

namespace cofi::compact_encoder {

// Floats for a chunk of up to `tokens` tokens, its longest sequence `longest`.
struct Encoder::Workspace {
  int64_t qkv, residual, context, block;    // shared by the threads, a row a token
  int64_t scores, keys, values, own;        // of each thread; `own` is all of them
  int64_t tokens, converted, converted_ld;  // converted_ld: bytes
  float* memory;

  Workspace(const Encoder& encoder, int64_t tokens, int64_t longest, int threads, bool converts) : tokens(tokens) {
    const int64_t padded = gemm::panels_of(longest) * gemm::kPanel;
    qkv = 3 * encoder.widest_ * tokens;
    residual = encoder.hidden_ * tokens;
    context = encoder.widest_ * tokens;
    block = kFfnBlock * tokens;
    scores = kQueryBlock * padded;
    keys = encoder.head_dim_ * padded;
    values = gemm::packed_size(longest, encoder.head_dim_);
    own = aligned(scores) + aligned(keys) + aligned(values);
    converted_ld = converted = 0;
    if (converts) {
      converted_ld = dots::row_bytes(*encoder.number_, std::max({encoder.hidden_, encoder.widest_, kFfnBlock}));
      converted = tokens * (converted_ld / static_cast<int64_t>(sizeof(float)) + 2);  // with scale and low
    }
    const int64_t shared = 2 * aligned(qkv) + aligned(residual) + aligned(context) + aligned(block);
    thread_local Buffer buffer;
    memory = buffer.at_least<float>(shared + 2 * aligned(converted) + threads * own);
  }

  static int64_t aligned(int64_t n) { return (n + 15) / 16 * 16; }

  float* take(int64_t& offset, int64_t n) const {
    float* start = memory + offset;
    offset += aligned(n);
    return start;
  }

  dots::Rows take_converted(int64_t& offset) const {
    float* const numbers = take(offset, converted);
    if (converted == 0) return {};
    return {reinterpret_cast<uint8_t*>(numbers + 2 * tokens), converted_ld, numbers, numbers + tokens};
  }
};

// What one thread does of a chunk. Pointers are to the chunk's first token.
struct Encoder::Rows {
  int64_t first, last;    // its own rows: attention, activation in int8, LayerNorm
  int64_t begin, end;     // rows of its products: its own, or all
  Part part;              // columns of its products: all, or its own
  Team* team;             // met after each product where columns are shared
  const int32_t* bounds;  // of the chunk's sequences
  int64_t sequences;
  float *x, *qkv[2], *residual, *context, *block, *scores, *keys, *values;
  dots::Rows converted, converted_block;

  Rows(const Workspace& space, const int32_t* bounds, int64_t sequences, float* x, int rank, Team& team)
      : team(&team), bounds(bounds), sequences(sequences), x(x) {
    const int64_t tokens = bounds[sequences] - bounds[0], size = team.size();
    first = tokens * rank / size;
    last = tokens * (rank + 1) / size;
    const bool columns = size > 1 && tokens < kShareColumnsBelow * size;
    begin = columns ? 0 : first;
    end = columns ? tokens : last;
    if (columns) part = {rank, size};
    int64_t offset = 0;
    for (float*& buffer : qkv) buffer = space.take(offset, space.qkv);
    residual = space.take(offset, space.residual);
    context = space.take(offset, space.context);
    block = space.take(offset, space.block);
    converted = space.take_converted(offset);
    converted_block = space.take_converted(offset);
    offset += rank * space.own;
    scores = space.take(offset, space.scores);
    keys = space.take(offset, space.keys);
    values = space.take(offset, space.values);
  }

  int64_t begin_of(int64_t sequence) const { return bounds[sequence] - bounds[0]; }

  void meet() const {
    if (part.size > 1) team->wait();
  }
};

bool Encoder::converts(int64_t tokens) const {
  return number_ && (settings_.precision != Precision::fp32 || tokens >= kFewestForPieces);
}

int64_t Encoder::chunk_tokens(int64_t tokens, int threads, bool converts) const {
  const int64_t bytes_each = !converts ? sizeof(float) : dots::pieces_of(*number_) * dots::size_of(*number_);
  const bool in_pieces = converts && settings_.precision == Precision::fp32;
  const int64_t few = in_pieces ? std::max(threads * kRowsFew, kFewestForPieces) : threads * kRowsFew;
  const int64_t most = weights_ * bytes_each > kManyWeightBytes ? threads * kRowsMany : few;
  const int64_t chunks = std::max<int64_t>(1, (tokens + most / 2) / most);
  return (tokens + chunks - 1) / chunks;
}

void Encoder::run(const float* x, const int32_t* bounds, int64_t sequences, float* out, int threads) const {
  const int64_t tokens = sequences > 0 ? bounds[sequences] - bounds[0] : 0;
  if (tokens == 0) return;
  if (out != x) std::memcpy(out, x, tokens * hidden_ * sizeof(float));
  threads = static_cast<int>(std::clamp<int64_t>(tokens * weights_ / kLeastWork, 1, std::max(threads, 1)));
  const bool converting = converts(tokens);
  const int64_t wanted = chunk_tokens(tokens, threads, converting);
  std::vector<int64_t> cuts = {0};  // sequences at which chunks begin
  int64_t longest = 0, most = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    longest = std::max<int64_t>(longest, bounds[s + 1] - bounds[s]);
    const int64_t size = bounds[s + 1] - bounds[cuts.back()];
    most = std::max(most, size);
    if (size >= wanted && s + 1 < sequences) cuts.push_back(s + 1);
  }
  cuts.push_back(sequences);
  const Workspace space(*this, most, longest, threads, converting);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const int32_t* own = bounds + cuts[i];
    run_chunk(space, own, cuts[i + 1] - cuts[i], out + (own[0] - bounds[0]) * hidden_, threads);
  }
}

void Encoder::run_chunk(const Workspace& space, const int32_t* bounds, int64_t sequences, float* x, int threads) const {
  parallel_team(threads, [&](int rank, Team& team) {
    const Rows rows(space, bounds, sequences, x, rank, team);
    int turn = 0;
    for (const Layer& layer : layers_) {
      if (layer.size.heads > 0) {
        float* qkv = rows.qkv[turn++ % 2];
        const int64_t width = 3 * layer.size.heads * head_dim_;
        prepare(rows, rows.x, hidden_, hidden_, rows.converted);
        multiply(layer.qkv, rows, {rows.x, hidden_, rows.converted}, qkv, width);
        team.wait();
        attend(layer, rows, qkv);
      }
      if (layer.size.mha) attention(layer, rows);
      if (layer.size.ffn) feed_forward(layer, rows);
    }
  });
}

// Where products convert: rows of k values, lda apart, converted, each thread its own, to where all find them.
void Encoder::prepare(const Rows& rows, const float* a, int64_t lda, int64_t k, const dots::Rows& to) const {
  if (!to.data) return;
  dots::kernels(*number_).convert(a + rows.first * lda, lda, rows.last - rows.first, k, to.from(rows.first));
  rows.meet();
}

// c (ldc apart) = a (lda apart) W + bias, or c += a W, for this thread's rows and columns.
void Encoder::multiply(const Linear& by, const Rows& rows, const Operand& a, float* c, int64_t ldc,
                       bool accumulate) const {
  const dots::Rows converted = a.converted.data ? a.converted.from(rows.begin) : a.converted;
  const Operand own{a.rows + rows.begin * a.ld, a.ld, converted};
  by.multiply(own, c + rows.begin * ldc, ldc, rows.end - rows.begin, rows.part, accumulate);
}

// The context of this thread's own rows.
void Encoder::attend(const Layer& layer, const Rows& rows, const float* qkv) const {
  for (int64_t s = 0; s < rows.sequences; ++s) {
    if (rows.begin_of(s + 1) <= rows.first || rows.begin_of(s) >= rows.last) continue;
    for (int64_t head = 0; head < layer.size.heads; ++head) attend(rows, qkv, layer.size.heads, head, s);
  }
  rows.meet();
}

// One head of one sequence, for the queries among this thread's rows.
void Encoder::attend(const Rows& rows, const float* qkv, int64_t heads, int64_t head, int64_t sequence) const {
  const gemm::Kernels& products = gemm::kernels();
  const int64_t width = heads * head_dim_, ld = 3 * width;
  const int64_t begin = rows.begin_of(sequence), n = rows.begin_of(sequence + 1) - begin;
  const float* queries = qkv + head * head_dim_;
  const float* keys = queries + begin * ld + width;
  products.pack_columns({keys, ld}, head_dim_, n, 0, gemm::panels_of(n), rows.keys);
  products.pack_rows({keys + width, ld}, n, head_dim_, 0, gemm::panels_of(head_dim_), rows.values);
  const int64_t padded = gemm::panels_of(n) * gemm::kPanel, last = std::min(begin + n, rows.last);
  for (int64_t row = std::max(begin, rows.first); row < last; row += kQueryBlock) {
    const int64_t m = std::min(kQueryBlock, last - row);
    products.multiply(queries + row * ld, ld, rows.keys, rows.scores, padded, m, n, head_dim_, {});
    kernels().softmax(rows.scores, padded, m, n);
    products.multiply(rows.scores, padded, rows.values, rows.context + row * width + head * head_dim_, width, m,
                      head_dim_, n, {});
  }
}

// Without a head the product is empty and leaves the bias.
void Encoder::attention(const Layer& layer, const Rows& rows) const {
  const int64_t width = layer.size.heads * head_dim_;
  prepare(rows, rows.context, width, width, rows.converted);
  multiply(layer.out, rows, {rows.context, width, rows.converted}, rows.residual, hidden_);
  finish(layer.attention_norm, rows);
}

// Block of dims by block: the block's activations are read again while they are in cache.
void Encoder::feed_forward(const Layer& layer, const Rows& rows) const {
  prepare(rows, rows.x, hidden_, hidden_, rows.converted);
  for (std::size_t i = 0; i < layer.up.size(); ++i) {
    const int64_t width = std::min(kFfnBlock, layer.size.intermediate - static_cast<int64_t>(i) * kFfnBlock);
    multiply(layer.up[i], rows, {rows.x, hidden_, rows.converted}, rows.block, kFfnBlock);
    const int64_t column = rows.part.first(width);
    kernels().activate(settings_.activation, rows.block + rows.begin * kFfnBlock + column, kFfnBlock,
                       rows.end - rows.begin, rows.part.last(width) - column);
    rows.meet();
    prepare(rows, rows.block, kFfnBlock, width, rows.converted_block);
    multiply(layer.down[i], rows, {rows.block, kFfnBlock, rows.converted_block}, rows.residual, hidden_, i > 0);
    if (i + 1 < layer.up.size()) rows.meet();  // before the block is overwritten
  }
  finish(layer.ffn_norm, rows);
}

void Encoder::finish(const Norm& norm, const Rows& rows) const {
  rows.meet();
  const int64_t start = rows.first * hidden_;
  kernels().add_norm(rows.x + start, rows.residual + start, norm.weight.data(), norm.bias.data(), settings_.eps,
                     rows.last - rows.first, hidden_);
  rows.meet();
}

}  // namespace cofi::compact_encoder
