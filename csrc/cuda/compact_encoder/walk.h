// Which sequences a cluster takes, and their way in and out of shared memory. Lengths are known to the device alone:
// each cluster cuts the batch into the same tiles, as many whole sequences in order as fit, and keeps every n-th.
#pragma once

#include "cuda/compact_encoder/tiles.h"

namespace cofi::compact_encoder {

// Rows of the batch in a tile, [first, first + count), and sequences [begin, end).
struct Span {
  int first;
  int count;
  int begin;
  int end;
};

// Bounds that are wrong reach no row outside the batch.
COFI_KERNEL int bound(const Arguments& a, int i) { return least(most(a.bounds[i], 0), a.n_rows); }

// The first sequence that no longer fits into a tile that begins with sequence i; after i in any case.
COFI_KERNEL int first_behind(const Arguments& a, int i) {
  const int last_row = bound(a, i) + tile_rows(a.tile);
  int fits = i + 1, fails = a.n_sequences + 1;
  while (fails - fits > 1) {
    const int middle = fits + (fails - fits) / 2;
    if (bound(a, middle) <= last_row) {
      fits = middle;
    } else {
      fails = middle;
    }
  }
  return fits;
}

// Lists the tiles of this cluster; returns how many. Uses shared memory from 0 to the list. Returns when all is done.
template <class M>
COFI_KERNEL int list_tiles(M& m, const Arguments& a) {
  for (int i = m.thread(); i < a.n_sequences; i += kThreads) m.store4(i * 4, first_behind(a, i));
  m.sync_block();
  int own = 0;
  for (int i = 0, tile = 0; i < a.n_sequences && own < a.tile.max_tiles; ++tile) {  // the same in all threads
    const int next = static_cast<int>(m.load4(i * 4));
    if (tile % a.clusters == m.cluster()) {
      if (m.thread() == 0) {
        m.store4(a.tile.tiles + own * 8, i);
        m.store4(a.tile.tiles + own * 8 + 4, next);
      }
      ++own;
    }
    i = next;
  }
  m.sync_block();
  return own;
}

template <class M>
COFI_KERNEL Span span_of(M& m, const Arguments& a, int tile) {
  Span span{};
  span.begin = static_cast<int>(m.load4(a.tile.tiles + tile * 8));
  span.end = static_cast<int>(m.load4(a.tile.tiles + tile * 8 + 4));
  span.first = bound(a, span.begin);
  span.count = least(most(bound(a, span.end) - span.first, 0), tile_rows(a.tile));
  return span;
}

// Of row `row` of a tile: where its sequence begins (lower half) and ends in the tile.
COFI_KERNEL uint32_t range_of(const Arguments& a, const Span& span, int row) {
  int at = span.begin, end = span.end;  // bound(at) <= row < bound(end)
  while (end - at > 1) {
    const int middle = at + (end - at) / 2;
    if (bound(a, middle) - span.first <= row) {
      at = middle;
    } else {
      end = middle;
    }
  }
  const int begin = least(most(bound(a, at) - span.first, 0), row);
  const int behind = most(least(bound(a, at + 1) - span.first, span.count), row + 1);
  return static_cast<uint32_t>(begin) | static_cast<uint32_t>(behind) << 16;
}

// Rows of this thread block and where they lie in the batch.
struct OwnRows {
  int first;
  int count;
};

template <class M>
COFI_KERNEL OwnRows own_rows(M& m, const Arguments& a, const Span& span) {
  const int rows = rows_of(a.tile), shift = m.rank() * rows;
  return {span.first + shift, least(most(span.count - shift, 0), rows)};
}

// The states of this thread block's rows and their sequences; zeros for rows and columns that there are not.
template <class M>
COFI_KERNEL void load_states(M& m, const Arguments& a, const Span& span) {
  const OwnRows own = own_rows(m, a, span);
  const int stride = row_stride(a.model.hidden_blocks), hidden = a.model.hidden, rows = rows_of(a.tile);
  const int step = a.access, units = a.model.hidden_blocks * kBlockWidth / step;
  for (int i = m.thread(); i < rows * units; i += kThreads) {
    const int row = i / units, column = i % units * step;
    const bool inside = row < own.count && column < hidden;
    const int64_t from = static_cast<int64_t>(own.first + row) * hidden + column;
    const int to = a.tile.states + (row * stride + column) * kElement;
    if (step == 4) {
      m.store8(to, inside ? m.load_global8(a.x, from) : 0);
    } else {
      m.store2(to, inside ? m.load_global2(a.x, from) : 0);
    }
  }
  const int shift = m.rank() * rows;
  for (int row = m.thread(); row < own.count; row += kThreads) {
    m.store4(a.tile.ranges + row * 4, range_of(a, span, shift + row));
  }
}

template <class M>
COFI_KERNEL void store_states(M& m, const Arguments& a, const Span& span) {
  const OwnRows own = own_rows(m, a, span);
  const int stride = row_stride(a.model.hidden_blocks), hidden = a.model.hidden;
  const int step = a.access, units = hidden / step;
  for (int i = m.thread(); i < own.count * units; i += kThreads) {
    const int row = i / units, column = i % units * step;
    const int64_t to = static_cast<int64_t>(own.first + row) * hidden + column;
    const int from = a.tile.states + (row * stride + column) * kElement;
    if (step == 4) {
      m.store_global8(a.out, to, m.load8(from));
    } else {
      m.store_global2(a.out, to, m.load2(from));
    }
  }
}

}  // namespace cofi::compact_encoder
