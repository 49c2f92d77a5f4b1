// The persistent encoder: a cluster of thread blocks carries whole sequences through all layers. Their states stay in
// shared memory, the weights stream past. M is the machine: a GPU, or its emulation in tests.
#pragma once

#include "cuda/compact_encoder/attention.h"
#include "cuda/compact_encoder/product.h"
#include "cuda/compact_encoder/ring.h"
#include "cuda/compact_encoder/walk.h"

namespace cofi::compact_encoder {

// What follows the first product of an attention sublayer for the heads of a group, `p` their columns.
template <class Cut, class M>
COFI_KERNEL void attend_group(M& m, const Arguments& a, const Product& p, const float* bias, int heads, int head,
                              int n_rows, const Sums<Cut>& sums) {
  const int columns = 3 * a.model.head_blocks * kBlockWidth;
  m.sync_cluster();  // until then another thread block may read its keys, or use their place for its FFN
  store_projected(m, a, p, bias + head * columns, heads, head, sums);
  m.sync_cluster();
  attend(m, a, heads, head, n_rows);
}

// Either kind: first products of all rows with the weights of groups of heads, or of passes over intermediate dims;
// then the second product of what came of them. One code for both: the kernel's instructions are to stay in their
// cache.
template <class Cut, class M>
COFI_KERNEL void run_sublayer(M& m, Ring<M>& ring, const Arguments& a, const Sublayer& sublayer, int n_rows) {
  const Model& model = a.model;
  const bool attends = sublayer.kind == Kind::attention;
  const int units = sublayer.units, step = attends ? a.tile.heads : kPassBlocks;
  const int depth = attends ? units * model.head_blocks : units;
  const float* bias = a.vectors + sublayer.vectors;
  Sums<Cut> sums;
#pragma unroll 1
  for (int unit = 0; unit < units; unit += step) {
    const int row = least(step, units - unit) * (attends ? 3 * model.head_blocks : 1);
    const Product p = product_of(row, model.hidden_blocks, a.tile);
    multiply(m, ring, p, a.tile.states, row_stride(model.hidden_blocks), sums);
    if (attends) {
      attend_group(m, a, p, bias, units, unit, n_rows, sums);
    } else {
      store_activated(m, a, p, bias, unit * kBlockWidth, row_stride(units), sums);
    }
  }
  m.sync_block();
  const Product p = product_of(model.hidden_blocks, depth, a.tile);
  multiply(m, ring, p, a.tile.work, row_stride(depth), sums);
  add_and_normalize(m, a, p, bias + (attends ? 3 : 1) * depth * kBlockWidth, sums);
}

template <class Cut, class M>
COFI_KERNEL void encode(M& m, const Arguments& a) {
  const int n_tiles = list_tiles(m, a);
  Ring<M>::initialize(m, a.tile);
  m.sync_cluster();
  Ring<M> ring(m, a, n_tiles);
#pragma unroll 1
  for (int tile = 0; tile < n_tiles; ++tile) {
    const Span span = span_of(m, a, tile);
    load_states(m, a, span);
    m.sync_block();
#pragma unroll 1
    for (int i = 0; i < a.model.n_sublayers; ++i) {
      run_sublayer<Cut>(m, ring, a, a.sublayers[i], span.count);
    }
    store_states(m, a, span);
    m.sync_block();
  }
  m.sync_cluster();  // others may still report to this one's barriers
}

}  // namespace cofi::compact_encoder
