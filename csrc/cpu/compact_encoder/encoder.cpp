// A call: chunks of whole sequences, one after the other; the threads share the rows of a chunk evenly and meet once an
// attention sublayer, where the keys of others are read. Keys and values alternate between two buffers, so that no
// second meeting is needed before they are overwritten.
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
  int64_t qkv, residual, context, own;  // sizes; `own` is for each thread
  int64_t hidden_block, scores, keys, values, quantized;
  int64_t quantized_ld;  // bytes
  float* memory;

  Workspace(const Encoder& encoder, int64_t tokens, int64_t longest, int threads) {
    const int64_t padded = gemm::panels_of(longest) * gemm::kPanel, rows = (tokens + threads - 1) / threads;
    qkv = 3 * encoder.widest_ * tokens;
    residual = encoder.hidden_ * tokens;
    context = encoder.widest_ * tokens;
    hidden_block = rows * kFfnBlock;
    scores = kQueryBlock * padded;
    keys = encoder.head_dim_ * padded;
    values = gemm::packed_size(longest, encoder.head_dim_);
    const bool int8 = encoder.settings_.precision == Precision::int8;
    quantized_ld = int8::row_bytes(std::max({encoder.hidden_, encoder.widest_, kFfnBlock}));
    quantized = int8 ? rows * (quantized_ld / static_cast<int64_t>(sizeof(float)) + 2) : 0;  // with scale and low
    own = aligned(hidden_block) + aligned(scores) + aligned(keys) + aligned(values) + 2 * aligned(quantized);
    thread_local Buffer buffer;
    memory = buffer.at_least<float>(2 * aligned(qkv) + aligned(residual) + aligned(context) + threads * own);
  }

  static int64_t aligned(int64_t n) { return (n + 15) / 16 * 16; }

  float* take(int64_t& offset, int64_t n) const {
    float* start = memory + offset;
    offset += aligned(n);
    return start;
  }

  int8::Rows take_quantized(int64_t& offset, int64_t rows) const {
    float* const numbers = take(offset, quantized);
    return {reinterpret_cast<uint8_t*>(numbers + 2 * rows), quantized_ld, numbers, numbers + rows};
  }
};

struct Encoder::Rows {
  int64_t first, last;    // of the chunk's tokens
  const int32_t* bounds;  // of the chunk's sequences
  int64_t sequences;
  float *x, *residual, *context, *block, *scores, *keys, *values;  // the first three start at the chunk's first token
  int8::Rows quantized, quantized_block;

  int64_t count() const { return last - first; }
  int64_t begin_of(int64_t sequence) const { return bounds[sequence] - bounds[0]; }
};

int64_t Encoder::chunk_tokens(int64_t tokens, int threads) const {
  const int64_t most = threads * (packed_bytes() > kManyWeightBytes ? kRowsMany : kRowsFew);
  const int64_t chunks = std::max<int64_t>(1, (tokens + most / 2) / most);
  return (tokens + chunks - 1) / chunks;
}

void Encoder::run(const float* x, const int32_t* bounds, int64_t sequences, float* out, int threads) const {
  const int64_t tokens = sequences > 0 ? bounds[sequences] - bounds[0] : 0;
  if (tokens == 0) return;
  std::memcpy(out, x, tokens * hidden_ * sizeof(float));
  threads = static_cast<int>(std::clamp<int64_t>(tokens / 8, 1, std::max(threads, 1)));  // a tile has 6 to 14 rows
  const int64_t wanted = chunk_tokens(tokens, threads);
  std::vector<int64_t> cuts = {0};  // sequences at which chunks begin
  int64_t longest = 0, most = 0;
  for (int64_t s = 0; s < sequences; ++s) {
    longest = std::max<int64_t>(longest, bounds[s + 1] - bounds[s]);
    const int64_t size = bounds[s + 1] - bounds[cuts.back()];
    most = std::max(most, size);
    if (size >= wanted && s + 1 < sequences) cuts.push_back(s + 1);
  }
  cuts.push_back(sequences);
  const Workspace space(*this, most, longest, threads);
  for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
    const int32_t* own = bounds + cuts[i];
    run_chunk(space, own, cuts[i + 1] - cuts[i], out + (own[0] - bounds[0]) * hidden_, threads);
  }
}

void Encoder::run_chunk(const Workspace& space, const int32_t* bounds, int64_t sequences, float* x, int threads) const {
  const int64_t tokens = bounds[sequences] - bounds[0];
  parallel_team(threads, [&](int rank, Team& team) {
    int64_t offset = 0;
    float* const qkv[2] = {space.take(offset, space.qkv), space.take(offset, space.qkv)};
    Rows rows{tokens * rank / team.size(),
              tokens * (rank + 1) / team.size(),
              bounds,
              sequences,
              x,
              {},
              {},
              {},
              {},
              {},
              {},
              {},
              {}};
    rows.residual = space.take(offset, space.residual);
    rows.context = space.take(offset, space.context);
    offset += rank * space.own;
    rows.block = space.take(offset, space.hidden_block);
    rows.scores = space.take(offset, space.scores);
    rows.keys = space.take(offset, space.keys);
    rows.values = space.take(offset, space.values);
    rows.quantized = space.take_quantized(offset, rows.count());
    rows.quantized_block = space.take_quantized(offset, rows.count());
    int turn = 0;
    for (const Layer& layer : layers_) {
      if (layer.size.heads > 0) {
        const int64_t width = 3 * layer.size.heads * head_dim_;
        float* own = qkv[turn % 2];
        const float* input = x + rows.first * hidden_;
        layer.qkv.multiply(operand(input, hidden_, hidden_, rows.count(), rows.quantized), own + rows.first * width,
                           width, rows.count());
        team.wait();
        attention(layer, rows, qkv[turn++ % 2]);
      } else if (layer.size.mha) {
        attention(layer, rows, nullptr);
      }
      if (layer.size.ffn) feed_forward(layer, rows);
    }
  });
}

// The rows (m x k, ld apart) as the products of this precision take them; `to` has room for them quantized.
Operand Encoder::operand(const float* rows, int64_t ld, int64_t k, int64_t m, const int8::Rows& to) const {
  if (settings_.precision == Precision::int8) int8::kernels().quantize(rows, ld, m, k, to);
  return {rows, ld, to};
}

// Without a head the product is empty and leaves the bias.
void Encoder::attention(const Layer& layer, const Rows& rows, const float* qkv) const {
  const int64_t heads = layer.size.heads, width = heads * head_dim_;
  for (int64_t s = 0; s < rows.sequences && heads > 0; ++s) {
    if (rows.begin_of(s + 1) <= rows.first || rows.begin_of(s) >= rows.last) continue;
    for (int64_t head = 0; head < heads; ++head) attend(rows, qkv, heads, head, s);
  }
  const float* context = rows.context + rows.first * width;
  layer.out.multiply(operand(context, width, width, rows.count(), rows.quantized), rows.residual + rows.first * hidden_,
                     hidden_, rows.count());
  finish(layer.attention_norm, rows);
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

// Block of dims by block: the block's activations are read again while they are in cache.
void Encoder::feed_forward(const Layer& layer, const Rows& rows) const {
  float* y = rows.residual + rows.first * hidden_;
  const int64_t m = rows.count();
  const Operand x = operand(rows.x + rows.first * hidden_, hidden_, hidden_, m, rows.quantized);
  for (std::size_t i = 0; i < layer.up.size(); ++i) {
    const int64_t width = std::min(kFfnBlock, layer.size.intermediate - static_cast<int64_t>(i) * kFfnBlock);
    layer.up[i].multiply(x, rows.block, kFfnBlock, m);
    kernels().activate(settings_.activation, rows.block, kFfnBlock, m, width);
    layer.down[i].multiply(operand(rows.block, kFfnBlock, width, m, rows.quantized_block), y, hidden_, m, i > 0);
  }
  this->finish(layer.ffn_norm, rows);
}

void Encoder::finish(const Norm& norm, const Rows& rows) const {
  const int64_t start = rows.first * hidden_;
  kernels().add_norm(rows.x + start, rows.residual + start, norm.weight.data(), norm.bias.data(), settings_.eps,
                     rows.count(), hidden_);
}

}  // namespace cofi::compact_encoder
