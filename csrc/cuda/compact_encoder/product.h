// Products of a thread block's rows with weights, their sums in registers, and what becomes of them.
#pragma once

#include "cuda/compact_encoder/activations.h"
#include "cuda/compact_encoder/ring.h"
#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

// What a warp sums: of its rows its blocks of columns. [..][..][n][2 h + c] is the element of row fragment_row + 8 h
// and column 8 n + fragment_column + c of a group of 16 rows and a block.
template <class Cut>
struct Sums {
  float of[Cut::kGroups][Cut::kBlocks][2][4];
};

template <class Cut>
COFI_KERNEL void clear(Sums<Cut>& sums) {
#pragma unroll
  for (int i = 0; i < Cut::kGroups * Cut::kBlocks * 8; ++i) {
    sums.of[i / 8 / Cut::kBlocks][i / 8 % Cut::kBlocks][i / 4 % 2][i % 4] = 0;
  }
}

// The blocks of columns that a warp has of a product.
struct OwnColumns {
  int first;
  int count;
};

template <class Cut, class M>
COFI_KERNEL OwnColumns own_columns(M& m, const Product& p) {
  const int team = Cut::team(m.warp()), first = team_first(p, team);
  return {first, team_end(p, team) - first};
}

// Calls f(j, n, column) for the pairs of columns that a lane has of its warp's blocks.
template <class Cut, class M, class F>
COFI_KERNEL void for_columns(M& m, const OwnColumns& own, F f) {
#pragma unroll
  for (int j = 0; j < Cut::kBlocks; ++j) {
    if (j < own.count) {
      f(j, 0, (own.first + j) * kBlockWidth + fragment_column(m.lane()));
      f(j, 1, (own.first + j) * kBlockWidth + 8 + fragment_column(m.lane()));
    }
  }
}

// Calls f(group, half, row) for the rows that a lane has.
template <class Cut, class M, class F>
COFI_KERNEL void for_rows(M& m, F f) {
  const int first = Cut::first_row(m.warp()) + fragment_row(m.lane());
#pragma unroll
  for (int group = 0; group < Cut::kGroups; ++group) {
    f(group, 0, first + group * kBlockWidth);
    f(group, 1, first + group * kBlockWidth + 8);
  }
}

// One block of depth of a warp alone: `blocks` is where this lane's part of its first block lies, `inputs` its row of
// the first factor.
template <class Cut, class M>
COFI_KERNEL void multiply_alone(M& m, int blocks, int count, int inputs, int stride_bytes, Sums<Cut>& sums) {
  uint32_t b[Cut::kBlocks][4];
#pragma unroll
  for (int j = 0; j < Cut::kBlocks; ++j) {
    if (j < count) m.load16(b[j], blocks + j * kBlockBytes);
  }
#pragma unroll
  for (int group = 0; group < Cut::kGroups; ++group) {
    uint32_t a[4];
    m.load_matrix(a, inputs + group * kBlockWidth * stride_bytes);
#pragma unroll
    for (int j = 0; j < Cut::kBlocks; ++j) {
      if (j < count) {
        m.multiply_add(sums.of[group][j][0], a, b[j][0], b[j][1]);
        m.multiply_add(sums.of[group][j][1], a, b[j][2], b[j][3]);
      }
    }
  }
}

// All depths of a stage, of a warpgroup with kTimes x kWideBlocks blocks of columns, from block kFirst of its sums on:
// one instruction after another without a branch between them, or the compiler has each wait for the last. `end`: of
// the row that `inputs` is in.
template <int kFirst, int kTimes, class Cut, class M>
COFI_KERNEL void multiply_wide(M& m, int blocks, int row, int inputs, int end, Sums<Cut>& sums) {
#pragma unroll 1
  for (; inputs != end; inputs += kBlockWidth * kElement, blocks += row * kBlockBytes) {
    uint32_t a[4];
    m.load_matrix(a, inputs);
    m.begin_wide();
#pragma unroll
    for (int i = 0; i < kTimes; ++i) {
      m.multiply_add_wide(&sums.of[0][kFirst + i * kWideBlocks], a, blocks + i * kWideBlocks * kBlockBytes);
    }
    m.end_wide();
  }
}

// The same for `count` blocks behind `skip`. What the last instruction reads behind them goes into sums that nobody
// looks at.
template <class Cut, class M>
COFI_KERNEL void multiply_stage(M& m, int blocks, int row, int skip, int count, int inputs, int end, Sums<Cut>& sums) {
  static_assert(Cut::kBlocks == 2 * kPieceBlocks && kPieceBlocks == 2 * kWideBlocks, "a case each");
  const int times = ceil_div(count, kWideBlocks);
  switch (skip == 0 ? times : times + 4) {
    case 1:
      return multiply_wide<0, 1>(m, blocks, row, inputs, end, sums);
    case 2:
      return multiply_wide<0, 2>(m, blocks, row, inputs, end, sums);
    case 3:
      return multiply_wide<0, 3>(m, blocks, row, inputs, end, sums);
    case 4:
      return multiply_wide<0, 4>(m, blocks, row, inputs, end, sums);
    case 5:
      return multiply_wide<kPieceBlocks, 1>(m, blocks, row, inputs, end, sums);
    default:
      return multiply_wide<kPieceBlocks, 2>(m, blocks, row, inputs, end, sums);
  }
}

// Rows at offset `inputs`, p.depth blocks wide, times the next weights of the ring.
template <class Cut, class M>
COFI_KERNEL void multiply(M& m, Ring<M>& ring, const Product& p, int inputs, int stride, Sums<Cut>& sums) {
  const int team = Cut::team(m.warp()), stride_bytes = stride * kElement, n_stages = stages_of(p);
  const OwnColumns own = own_columns<Cut>(m, p);
  const int at = inputs + (Cut::first_row(m.warp()) + a_row(m.lane())) * stride_bytes + a_column(m.lane()) * kElement;
  clear(sums);
#pragma unroll 1
  for (int i = 0, at_part = 0, depth = 0; i < n_stages; ++i) {
    const Part part = part_of(p, at_part);
    const int steps = least(p.steps, p.depth - depth);
    const int slot = ring.acquire();
    if (team >= part.first_team && team < part.end_team && own.count > 0) {
      int blocks = slot + (own.first - part.first_team * p.team_blocks) * kBlockBytes;
      const int begin = at + depth * kBlockWidth * kElement, end = begin + steps * kBlockWidth * kElement;
      if constexpr (Cut::kIsWide) {
        const int count = p.pieces == 1 ? own.count : least(own.count - part.skip, kPieceBlocks);
        multiply_stage(m, blocks, p.row, part.skip, count, begin, end, sums);
      } else {
        blocks += m.lane() * 16;
#pragma unroll 1
        for (int from = begin; from != end; from += kBlockWidth * kElement, blocks += p.row * kBlockBytes) {
          multiply_alone(m, blocks, own.count, from, stride_bytes, sums);
        }
      }
    }
    ring.release();
    if (++at_part == p.parts) {
      at_part = 0;
      depth += steps;
    }
  }
}

// Intermediate activations: bias and activation F, to the work area. `shift`: columns of earlier passes.
template <class F, class Cut, class M>
COFI_KERNEL void store_with(M& m, const Arguments& a, const Product& p, const float* bias, int shift, int stride,
                            const Sums<Cut>& sums) {
  for_columns<Cut>(m, own_columns<Cut>(m, p), [&](int j, int n, int column) {
    float b[2];
    m.load_pair(b, bias + shift + column);
    for_rows<Cut>(m, [&](int group, int half, int row) {
      const float* sum = sums.of[group][j][n] + 2 * half;
      m.store4(a.tile.work + (row * stride + shift + column) * kElement,
               m.pack(F::of(m, sum[0] + b[0]), F::of(m, sum[1] + b[1])));
    });
  });
}

template <class Cut, class M>
COFI_KERNEL void store_activated(M& m, const Arguments& a, const Product& p, const float* bias, int shift, int stride,
                                 const Sums<Cut>& sums) {
  if (a.model.activation == Activation::gelu) {
    store_with<Gelu>(m, a, p, bias, shift, stride, sums);
  } else if (a.model.activation == Activation::gelu_new) {
    store_with<GeluNew>(m, a, p, bias, shift, stride, sums);
  } else {
    store_with<Relu>(m, a, p, bias, shift, stride, sums);
  }
}

// Sum over all columns of a row, from what each team stored.
template <int kTeams, class M>
COFI_KERNEL float row_total(M& m, int sums, int row) {
  float total = 0;
  const int at = sums + row * kTeams * 4;
  if constexpr (kTeams == 2) {
    total = m.as_float(m.load4(at)) + m.as_float(m.load4(at + 4));
  } else {
#pragma unroll
    for (int i = 0; i < kTeams; i += 4) {
      uint32_t words[4];
      m.load16(words, at + i * 4);
#pragma unroll
      for (int j = 0; j < 4; ++j) total += m.as_float(words[j]);
    }
  }
  return total;
}

// Of each row the mean over the hidden dims of what its lanes and all teams have summed.
template <class Cut, class M>
COFI_KERNEL void average_rows(M& m, const Arguments& a, int sums, float (&values)[Cut::kGroups][2]) {
  for_rows<Cut>(m, [&](int group, int half, int row) {
    float& value = values[group][half];
    value += m.shuffle_xor(value, 1);
    value += m.shuffle_xor(value, 2);
    if (m.lane() % 4 == 0) m.store4(sums + (row * Cut::kTeams + Cut::team(m.warp())) * 4, m.as_word(value));
  });
  m.sync_block();
  for_rows<Cut>(m, [&](int group, int half, int row) {
    values[group][half] = row_total<Cut::kTeams>(m, sums, row) * a.model.one_over_hidden;
  });
}

// sums += bias + states; returns the average of each row.
template <class Cut, class M>
COFI_KERNEL void add_residual(M& m, const Arguments& a, const OwnColumns& own, const float* bias, Sums<Cut>& sums,
                              float (&average)[Cut::kGroups][2]) {
  const int stride = row_stride(a.model.hidden_blocks);
  for_columns<Cut>(m, own, [&](int j, int n, int column) {
    float b[2];
    m.load_pair(b, bias + column);
    for_rows<Cut>(m, [&](int group, int half, int row) {
      float* sum = sums.of[group][j][n] + 2 * half;
      float x0, x1;
      m.unpack(m.load4(a.tile.states + (row * stride + column) * kElement), &x0, &x1);
      sum[0] += b[0] + x0;
      sum[1] += b[1] + x1;
      average[group][half] += sum[0] + sum[1];
    });
  });
  average_rows<Cut>(m, a, a.tile.sums, average);
}

// sums -= average; returns 1 / standard deviation in its place.
template <class Cut, class M>
COFI_KERNEL void centre(M& m, const Arguments& a, const OwnColumns& own, Sums<Cut>& sums,
                        float (&average)[Cut::kGroups][2]) {
  float squares[Cut::kGroups][2] = {};
  for_columns<Cut>(m, own, [&](int j, int n, int column) {
    for_rows<Cut>(m, [&](int group, int half, int) {
      float* sum = sums.of[group][j][n] + 2 * half;
      sum[0] = column < a.model.hidden ? sum[0] - average[group][half] : 0.0f;
      sum[1] = column + 1 < a.model.hidden ? sum[1] - average[group][half] : 0.0f;
      squares[group][half] += sum[0] * sum[0] + sum[1] * sum[1];
    });
  });
  average_rows<Cut>(m, a, a.tile.sums + rows_of(a.tile) * Cut::kTeams * 4, squares);
  for_rows<Cut>(m,
                [&](int group, int half, int) { average[group][half] = m.rsqrt(squares[group][half] + a.model.eps); });
}

// states = LayerNorm(states + sums + bias); vectors: bias, then weight and bias of the norm. Columns behind the hidden
// dims are zeros and stay so. Returns when all rows are there.
template <class Cut, class M>
COFI_KERNEL void add_and_normalize(M& m, const Arguments& a, const Product& p, const float* vectors, Sums<Cut>& sums) {
  const OwnColumns own = own_columns<Cut>(m, p);
  const int width = a.model.hidden_blocks * kBlockWidth, stride = row_stride(a.model.hidden_blocks);
  float scale[Cut::kGroups][2] = {};
  add_residual(m, a, own, vectors, sums, scale);
  centre(m, a, own, sums, scale);
  for_columns<Cut>(m, own, [&](int j, int n, int column) {
    float w[2], b[2];
    m.load_pair(w, vectors + width + column);
    m.load_pair(b, vectors + 2 * width + column);
    for_rows<Cut>(m, [&](int group, int half, int row) {
      const float* sum = sums.of[group][j][n] + 2 * half;
      m.store4(a.tile.states + (row * stride + column) * kElement,
               m.pack(sum[0] * scale[group][half] * w[0] + b[0], sum[1] * scale[group][half] * w[1] + b[1]));
    });
  });
  m.sync_block();
}

}  // namespace cofi::compact_encoder
