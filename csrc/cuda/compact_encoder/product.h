// Products of a thread block's rows with weights, their sums in registers, and what becomes of them.
#pragma once

#include "cuda/compact_encoder/activations.h"
#include "cuda/compact_encoder/ring.h"
#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

// What a warp sums: of kGroups x 16 rows its blocks of columns. [..][..][n][2 h + c] is the element of row
// fragment_row + 8 h and column 8 n + fragment_column + c.
template <int kGroups>
struct Sums {
  float of[kGroups][kWarpBlocks][2][4];
};

template <int kGroups>
COFI_KERNEL void clear(Sums<kGroups>& sums) {
#pragma unroll
  for (int i = 0; i < kGroups * kWarpBlocks * 8; ++i) {
    sums.of[i / 8 / kWarpBlocks][i / 8 % kWarpBlocks][i / 4 % 2][i % 4] = 0;
  }
}

// Calls f(j, n, column) for the pairs of columns that a lane has of `count` blocks from block `first` on.
template <class M, class F>
COFI_KERNEL void for_columns(M& m, int first, int count, F f) {
#pragma unroll
  for (int j = 0; j < kWarpBlocks; ++j) {
    if (j < count) {
      f(j, 0, (first + j) * kBlockWidth + fragment_column(m.lane()));
      f(j, 1, (first + j) * kBlockWidth + 8 + fragment_column(m.lane()));
    }
  }
}

// Calls f(group, half, row) for the rows that a lane has.
template <int kGroups, class M, class F>
COFI_KERNEL void for_rows(M& m, F f) {
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    f(group, 0, group * kBlockWidth + fragment_row(m.lane()));
    f(group, 1, group * kBlockWidth + 8 + fragment_row(m.lane()));
  }
}

// One block of depth: `blocks` is where this lane's part of the warp's first block lies, `inputs` its row of the first
// factor.
template <int kGroups, class M>
COFI_KERNEL void multiply_step(M& m, int blocks, int count, int inputs, int stride_bytes, Sums<kGroups>& sums) {
  uint32_t b[kWarpBlocks][4];
#pragma unroll
  for (int j = 0; j < kWarpBlocks; ++j) {
    if (j < count) m.load16(b[j], blocks + j * kBlockBytes);
  }
#pragma unroll
  for (int group = 0; group < kGroups; ++group) {
    uint32_t a[4];
    m.load_matrix(a, inputs + group * kBlockWidth * stride_bytes);
#pragma unroll
    for (int j = 0; j < kWarpBlocks; ++j) {
      if (j < count) {
        m.multiply_add(sums.of[group][j][0], a, b[j][0], b[j][1]);
        m.multiply_add(sums.of[group][j][1], a, b[j][2], b[j][3]);
      }
    }
  }
}

// Rows at offset `inputs`, p.depth blocks wide, times the next weights of the ring.
template <int kGroups, class M>
COFI_KERNEL void multiply(M& m, Ring<M>& ring, const Product& p, int inputs, int stride, Sums<kGroups>& sums) {
  const int warp = m.warp(), first = warp_first(p, warp), count = warp_end(p, warp) - first;
  const int stride_bytes = stride * kElement, n_stages = stages_of(p);
  int at = inputs + a_row(m.lane()) * stride_bytes + a_column(m.lane()) * kElement;
  clear(sums);
#pragma unroll 1
  for (int i = 0, part = 0, depth = 0; i < n_stages; ++i) {
    const int first_warp = part * p.part_warps, steps = least(p.steps, p.depth - depth);
    const int slot = ring.acquire();
    if (warp >= first_warp && warp < first_warp + p.part_warps && count > 0) {
      int blocks = slot + (first - first_warp * p.warp_blocks) * kBlockBytes + m.lane() * 16;
      const int begin = at + depth * kBlockWidth * kElement, end = begin + steps * kBlockWidth * kElement;
#pragma unroll 1
      for (int from = begin; from != end; from += kBlockWidth * kElement, blocks += p.row * kBlockBytes) {
        multiply_step(m, blocks, count, from, stride_bytes, sums);
      }
    }
    ring.release();
    if (++part == p.parts) {
      part = 0;
      depth += steps;
    }
  }
}

// Intermediate activations: bias and activation F, to the work area. `shift`: columns of earlier passes.
template <class F, int kGroups, class M>
COFI_KERNEL void store_with(M& m, const Arguments& a, const Product& p, const float* bias, int shift, int stride,
                            const Sums<kGroups>& sums) {
  const int first = warp_first(p, m.warp()), count = warp_end(p, m.warp()) - first;
  for_columns(m, first, count, [&](int j, int n, int column) {
    float b[2];
    m.load_pair(b, bias + shift + column);
    for_rows<kGroups>(m, [&](int group, int half, int row) {
      const float* sum = sums.of[group][j][n] + 2 * half;
      m.store4(a.tile.work + (row * stride + shift + column) * kElement,
               m.pack(F::of(m, sum[0] + b[0]), F::of(m, sum[1] + b[1])));
    });
  });
}

template <int kGroups, class M>
COFI_KERNEL void store_activated(M& m, const Arguments& a, const Product& p, const float* bias, int shift, int stride,
                                 const Sums<kGroups>& sums) {
  if (a.model.activation == Activation::gelu) {
    store_with<Gelu>(m, a, p, bias, shift, stride, sums);
  } else if (a.model.activation == Activation::gelu_new) {
    store_with<GeluNew>(m, a, p, bias, shift, stride, sums);
  } else {
    store_with<Relu>(m, a, p, bias, shift, stride, sums);
  }
}

// Sum over all columns of a row, from what each warp stored.
template <class M>
COFI_KERNEL float row_total(M& m, int sums, int row) {
  float total = 0;
#pragma unroll
  for (int i = 0; i < kWarps; i += 4) {
    uint32_t words[4];
    m.load16(words, sums + (row * kWarps + i) * 4);
#pragma unroll
    for (int j = 0; j < 4; ++j) total += m.as_float(words[j]);
  }
  return total;
}

// Of each row the mean over the hidden dims of what its lanes and all warps have summed.
template <int kGroups, class M>
COFI_KERNEL void average_rows(M& m, const Arguments& a, int sums, float (&values)[kGroups][2]) {
  for_rows<kGroups>(m, [&](int group, int half, int row) {
    float& value = values[group][half];
    value += m.shuffle_xor(value, 1);
    value += m.shuffle_xor(value, 2);
    if (m.lane() % 4 == 0) m.store4(sums + (row * kWarps + m.warp()) * 4, m.as_word(value));
  });
  m.sync_block();
  for_rows<kGroups>(m, [&](int group, int half, int row) {
    values[group][half] = row_total(m, sums, row) * a.model.one_over_hidden;
  });
}

// sums += bias + states; returns the average of each row.
template <int kGroups, class M>
COFI_KERNEL void add_residual(M& m, const Arguments& a, int first, int count, const float* bias, Sums<kGroups>& sums,
                              float (&average)[kGroups][2]) {
  const int stride = row_stride(a.model.hidden_blocks);
  for_columns(m, first, count, [&](int j, int n, int column) {
    float b[2];
    m.load_pair(b, bias + column);
    for_rows<kGroups>(m, [&](int group, int half, int row) {
      float* sum = sums.of[group][j][n] + 2 * half;
      float x0, x1;
      m.unpack(m.load4(a.tile.states + (row * stride + column) * kElement), &x0, &x1);
      sum[0] += b[0] + x0;
      sum[1] += b[1] + x1;
      average[group][half] += sum[0] + sum[1];
    });
  });
  average_rows<kGroups>(m, a, a.tile.sums, average);
}

// sums -= average; returns 1 / standard deviation in its place.
template <int kGroups, class M>
COFI_KERNEL void centre(M& m, const Arguments& a, int first, int count, Sums<kGroups>& sums,
                        float (&average)[kGroups][2]) {
  float squares[kGroups][2] = {};
  for_columns(m, first, count, [&](int j, int n, int column) {
    for_rows<kGroups>(m, [&](int group, int half, int) {
      float* sum = sums.of[group][j][n] + 2 * half;
      sum[0] = column < a.model.hidden ? sum[0] - average[group][half] : 0.0f;
      sum[1] = column + 1 < a.model.hidden ? sum[1] - average[group][half] : 0.0f;
      squares[group][half] += sum[0] * sum[0] + sum[1] * sum[1];
    });
  });
  average_rows<kGroups>(m, a, a.tile.sums + kGroups * kBlockWidth * kWarps * 4, squares);
  for_rows<kGroups>(
      m, [&](int group, int half, int) { average[group][half] = m.rsqrt(squares[group][half] + a.model.eps); });
}

// states = LayerNorm(states + sums + bias); vectors: bias, then weight and bias of the norm. Columns behind the hidden
// dims are zeros and stay so. Returns when all rows are there.
template <int kGroups, class M>
COFI_KERNEL void add_and_normalize(M& m, const Arguments& a, const Product& p, const float* vectors,
                                   Sums<kGroups>& sums) {
  const int first = warp_first(p, m.warp()), count = warp_end(p, m.warp()) - first;
  const int width = a.model.hidden_blocks * kBlockWidth, stride = row_stride(a.model.hidden_blocks);
  float scale[kGroups][2] = {};
  add_residual(m, a, first, count, vectors, sums, scale);
  centre(m, a, first, count, sums, scale);
  for_columns(m, first, count, [&](int j, int n, int column) {
    float w[2], b[2];
    m.load_pair(w, vectors + width + column);
    m.load_pair(b, vectors + 2 * width + column);
    for_rows<kGroups>(m, [&](int group, int half, int row) {
      const float* sum = sums.of[group][j][n] + 2 * half;
      m.store4(a.tile.states + (row * stride + column) * kElement,
               m.pack(sum[0] * scale[group][half] * w[0] + b[0], sum[1] * scale[group][half] * w[1] + b[1]));
    });
  });
  m.sync_block();
}

}  // namespace cofi::compact_encoder
