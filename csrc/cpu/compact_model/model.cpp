#include "cpu/compact_model/model.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/parallel.h"
#include "common/scratch.h"

namespace cofi::compact_model {
namespace {

constexpr int64_t kGrain = 64;  // padded rows to a thread at a time

// The tokens of a padded batch, side by side.
struct Tokens {
  std::vector<int64_t> ids, positions, types, slots;  // slots: where a token was in the padded batch
  std::vector<int32_t> bounds;

  int64_t count() const { return static_cast<int64_t>(ids.size()); }

  // Whether every row has at least one token and at most `longest`.
  bool take(const Padded& from, int64_t first, int64_t longest) {
    for (auto* numbers : {&ids, &positions, &types, &slots}) numbers->clear();
    bounds.assign(1, 0);
    for (int64_t row = 0; row < from.rows; ++row) {
      int64_t position = first;
      for (int64_t slot = row * from.length; slot < (row + 1) * from.length; ++slot) {
        if (from.mask != nullptr && from.mask[slot] == 0) continue;
        ids.push_back(from.ids[slot]);
        positions.push_back(position++);
        types.push_back(from.types != nullptr ? from.types[slot] : 0);
        slots.push_back(slot);
      }
      if (position == first || position - first > longest) return false;
      bounds.push_back(static_cast<int32_t>(count()));
    }
    return true;
  }
};

// Rows of x to their slots among all `padded` of them, zeros elsewhere.
void spread(const float* x, const std::vector<int64_t>& slots, int64_t padded, int64_t hidden, float* out,
            int threads) {
  parallel_for(padded, kGrain, threads, [&](int64_t begin, int64_t end) {
    auto next = std::lower_bound(slots.begin(), slots.end(), begin);
    for (int64_t slot = begin; slot < end; ++slot) {
      float* const row = out + slot * hidden;
      if (next != slots.end() && *next == slot) {
        std::memcpy(row, x + (next++ - slots.begin()) * hidden, hidden * sizeof(float));
      } else {
        std::memset(row, 0, hidden * sizeof(float));
      }
    }
  });
}

}  // namespace

bool Model::run(const Padded& in, const Outputs& to, int threads) const {
  thread_local Tokens tokens;
  thread_local Buffer buffer;
  const Embeddings& from = embeddings_;
  if (!tokens.take(in, from.first, from.positions - from.first)) return false;
  std::vector<token_embedding::Table> tables = {{tokens.ids.data(), from.word, from.words},
                                                {tokens.positions.data(), from.position, from.positions}};
  if (from.types > 0) tables.push_back({tokens.types.data(), from.type, from.types});
  if (token_embedding::first_without_a_row(tables, tokens.count()) >= 0) return false;
  const bool is_full = tokens.count() == in.rows * in.length;
  float* const x = is_full ? to.states : buffer.at_least<float>(tokens.count() * hidden_);
  token_embedding::embed(tables, from.norm, x, tokens.count(), hidden_, threads);
  encoder_.run(x, tokens.bounds.data(), in.rows, x, threads);
  first_token_head::apply(head_, x, tokens.bounds.data(), in.rows, hidden_, to.pooled, to.logits, threads);
  if (!is_full) spread(x, tokens.slots, in.rows * in.length, hidden_, to.states, threads);
  return true;
}

}  // namespace cofi::compact_model
