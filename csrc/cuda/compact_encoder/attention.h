// Attention within the sequences of a tile: queries of a thread block's own rows, keys and values of the whole cluster.
#pragma once

#include "cuda/compact_encoder/product.h"
#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

constexpr int kKeyBlocks = 4;  // of 16 keys, looked at together: 32 registers of scores

// Where a block of projected columns goes: rows from `at` on, `stride` elements apart, in one thread block or in all.
struct Target {
  int at;
  int stride;
  float scale;
  bool is_query;
};

// Of column `column` of the group's product: head by head queries, keys, values. A block of 16 lies in one of them.
template <class M>
COFI_KERNEL Target target_of(M& m, const Arguments& a, int heads, int first_head, int column) {
  const Model& model = a.model;
  const int dims = model.head_blocks * kBlockWidth, head = column / (3 * dims);
  const int part = column / dims - 3 * head, dim = column % dims;
  if (part == 0) {
    const int at = a.tile.work + ((first_head + head) * dims + dim) * kElement;
    return {at, context_stride(model, heads), model.scale, true};
  }
  const int stride = row_stride(model.head_blocks), shift = m.rank() * rows_of(a.tile);
  const int at = keys_offset(model, a.tile, heads) + (2 * head + part - 1) * key_bytes(model, a.tile);
  return {at + (shift * stride + dim) * kElement, stride, 1.0f, false};
}

// Queries, scaled, to the context's place in this thread block; keys and values to every one of the cluster.
template <class Cut, class M>
COFI_KERNEL void store_projected(M& m, const Arguments& a, const Product& p, const float* bias, int heads,
                                 int first_head, const Sums<Cut>& sums) {
  const OwnColumns own = own_columns<Cut>(m, p);
#pragma unroll 1
  for (int rank = 0; rank < a.tile.cluster; ++rank) {
    const auto block = m.block_of(rank);
    for_columns<Cut>(m, own, [&](int j, int n, int column) {
      const Target target = target_of(m, a, heads, first_head, column);
      if (target.is_query && rank != m.rank()) return;
      float b[2];
      m.load_pair(b, bias + column);
      for_rows<Cut>(m, [&](int group, int half, int row) {
        const float* sum = sums.of[group][j][n] + 2 * half;
        m.store4_in(block, target.at + row * target.stride * kElement,
                    m.pack((sum[0] + b[0]) * target.scale, (sum[1] + b[1]) * target.scale));
      });
    });
  }
}

// One warp's 16 queries of a head against the keys [begin, end) of one sequence.
struct Softmax {
  float out[2 * kMaxHeadBlocks][4] = {};
  float largest[2];
  float total[2] = {};
};

struct Keys {
  int keys;    // offset of the head's keys
  int values;  // and values
  int begin;   // rows of the cluster's tile
  int end;
};

// scores[n] of 8 keys each, from row `key` on; minus infinity for keys that are not of the sequence.
template <class M>
COFI_KERNEL void score(M& m, const Arguments& a, const uint32_t (&q)[kMaxHeadBlocks][4], const Keys& k, int key,
                       float (&scores)[2 * kKeyBlocks][4]) {
  const int stride = row_stride(a.model.head_blocks), last = tile_rows(a.tile) - 1;
#pragma unroll
  for (int j = 0; j < kKeyBlocks; ++j) {
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[2 * j + i / 4][i % 4] = 0;
    const int row = least(last, key + j * kBlockWidth + key_row(m.lane()));
    const int at = k.keys + (row * stride + key_column(m.lane())) * kElement;
#pragma unroll
    for (int d = 0; d < kMaxHeadBlocks; ++d) {
      if (d < a.model.head_blocks && key + j * kBlockWidth < k.end) {
        uint32_t b[4];
        m.load_matrix(b, at + d * kBlockWidth * kElement);
        m.multiply_add(scores[2 * j], q[d], b[0], b[1]);
        m.multiply_add(scores[2 * j + 1], q[d], b[2], b[3]);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int column = j * kBlockWidth + i / 4 * 8 + fragment_column(m.lane()) + i % 2;
      if (key + column >= k.end) scores[2 * j + i / 4][i % 4] = -M::infinity();
    }
  }
}

// Turns scores into weights, exp2(score - largest so far), and scales what was summed before.
template <class M>
COFI_KERNEL void weigh(M& m, Softmax& s, float (&scores)[2 * kKeyBlocks][4]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = s.largest[half];
#pragma unroll
    for (int n = 0; n < 2 * kKeyBlocks; ++n)
      largest = m.larger(largest, m.larger(scores[n][2 * half], scores[n][2 * half + 1]));
    largest = m.larger(largest, m.shuffle_xor(largest, 1));
    largest = m.larger(largest, m.shuffle_xor(largest, 2));
    const float kept = m.exp2(s.largest[half] - largest);
    s.largest[half] = largest;
    s.total[half] *= kept;
#pragma unroll
    for (int n = 0; n < 2 * kMaxHeadBlocks; ++n) {
      s.out[n][2 * half] *= kept;
      s.out[n][2 * half + 1] *= kept;
    }
#pragma unroll
    for (int n = 0; n < 2 * kKeyBlocks; ++n) {
#pragma unroll
      for (int c = 2 * half; c < 2 * half + 2; ++c) {
        scores[n][c] = m.exp2(scores[n][c] - largest);
        s.total[half] += scores[n][c];
      }
    }
  }
}

// Two values of a register for keys `key` and `key + 1`: those not of the sequence are taken to be 0, as 0 x NaN is
// not.
COFI_KERNEL uint32_t keep_own(uint32_t pair, int key, int end) {
  return key + 1 < end ? pair : key < end ? pair & 0xFFFFu : 0u;
}

template <class M>
COFI_KERNEL void add_values(M& m, const Arguments& a, const Keys& k, int key, const float (&weights)[2 * kKeyBlocks][4],
                            Softmax& s) {
  const int stride = row_stride(a.model.head_blocks), last = tile_rows(a.tile) - 1;
#pragma unroll
  for (int j = 0; j < kKeyBlocks; ++j) {
    const int block = key + j * kBlockWidth, pair = block + fragment_column(m.lane());
    if (block >= k.end) continue;
    const uint32_t p[4] = {m.pack(weights[2 * j][0], weights[2 * j][1]), m.pack(weights[2 * j][2], weights[2 * j][3]),
                           m.pack(weights[2 * j + 1][0], weights[2 * j + 1][1]),
                           m.pack(weights[2 * j + 1][2], weights[2 * j + 1][3])};
    const int row = least(last, block + value_row(m.lane()));
    const int at = k.values + (row * stride + value_column(m.lane())) * kElement;
#pragma unroll
    for (int d = 0; d < kMaxHeadBlocks; ++d) {
      if (d < a.model.head_blocks) {
        uint32_t b[4];
        m.load_transposed(b, at + d * kBlockWidth * kElement);
        if (block + kBlockWidth > k.end) {
#pragma unroll
          for (int i = 0; i < 4; ++i) b[i] = keep_own(b[i], pair + i % 2 * 8, k.end);
        }
        m.multiply_add(s.out[2 * d], p, b[0], b[1]);
        m.multiply_add(s.out[2 * d + 1], p, b[2], b[3]);
      }
    }
  }
}

// Stores contexts of the rows [begin, end) of a warp's 16; `at`: the offset of the first.
template <class M>
COFI_KERNEL void store_context(M& m, const Arguments& a, int at, int stride, int begin, int end, Softmax& s) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float total = s.total[half];
    total += m.shuffle_xor(total, 1);
    total += m.shuffle_xor(total, 2);
    const int row = fragment_row(m.lane()) + 8 * half;
    const float share = m.reciprocal(total);
    if (row < begin || row >= end) continue;
#pragma unroll
    for (int n = 0; n < 2 * kMaxHeadBlocks; ++n) {
      if (n < 2 * a.model.head_blocks) {
        m.store4(at + (row * stride + n * 8 + fragment_column(m.lane())) * kElement,
                 m.pack(s.out[n][2 * half] * share, s.out[n][2 * half + 1] * share));
      }
    }
  }
  m.sync_warp();
}

// 16 rows of a head, sequence by sequence: what a sequence holds, were it NaN, does not reach the rows of another.
// `query`: offset of the queries, where the contexts go; `first`: the first row in the cluster's tile of n_rows.
template <class M>
COFI_KERNEL void attend_rows(M& m, const Arguments& a, int query, int stride, int ranges, int first, int n_rows,
                             Keys k) {
  uint32_t q[kMaxHeadBlocks][4];
#pragma unroll
  for (int d = 0; d < kMaxHeadBlocks; ++d) {
    if (d < a.model.head_blocks) {
      m.load_matrix(q[d], query + (a_row(m.lane()) * stride + d * kBlockWidth + a_column(m.lane())) * kElement);
    }
  }
  m.sync_warp();
#pragma unroll 1
  for (int row = 0; row < kBlockWidth && first + row < n_rows;) {
    const uint32_t range = m.load4(ranges + row * 4);
    k.begin = range & 0xFFFF;
    k.end = range >> 16;
    Softmax s;
    s.largest[0] = s.largest[1] = -M::infinity();
#pragma unroll 1
    for (int key = k.begin; key < k.end; key += kKeyBlocks * kBlockWidth) {
      float scores[2 * kKeyBlocks][4];
      score(m, a, q, k, key, scores);
      weigh(m, s, scores);
      add_values(m, a, k, key, scores, s);
    }
    const int end = least(kBlockWidth, k.end - first);
    store_context(m, a, query, stride, row, end, s);
    row = end;
  }
}

// All heads of a group. n_rows: of the cluster's tile.
template <class M>
COFI_KERNEL void attend(M& m, const Arguments& a, int heads, int first_head, int n_rows) {
  const Model& model = a.model;
  const int group = group_heads(a.tile, heads, first_head), stride = context_stride(model, heads);
  const int keys = keys_offset(model, a.tile, heads), bytes = key_bytes(model, a.tile), groups = a.tile.row_groups;
#pragma unroll 1
  for (int task = m.warp(); task < group * groups; task += kWarps) {
    const int head = task / groups, row = task % groups * kBlockWidth;
    const int query = a.tile.work + (row * stride + (first_head + head) * model.head_blocks * kBlockWidth) * kElement;
    const Keys k{keys + 2 * head * bytes, keys + (2 * head + 1) * bytes, 0, 0};
    attend_rows(m, a, query, stride, a.tile.ranges + row * 4, m.rank() * rows_of(a.tile) + row, n_rows, k);
  }
}

}  // namespace cofi::compact_encoder
