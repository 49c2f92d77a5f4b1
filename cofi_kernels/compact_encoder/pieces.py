# mypy: disallow-untyped-defs=False, disable-error-code="assignment"
"""Whole rows in a Triton program, as tuples of pieces: sums of products, bias, residual, LayerNorm.

E hidden dims are stored in N_PIECES pieces of PIECE, zeros behind the last. A block's sizes are powers of two: one
block of 768 would take 1,024, six pieces of 128 do not.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def zeros(ROWS: tl.constexpr, PIECE: tl.constexpr, N_PIECES: tl.constexpr):
    pieces = ()
    for _ in tl.static_range(N_PIECES):
        pieces = pieces + (tl.zeros((ROWS, PIECE), tl.float32),)
    return pieces


@triton.jit
def load_rows(ptr, row, n_rows, PIECE: tl.constexpr, N_PIECES: tl.constexpr):
    """Rows `row` of a matrix of padded rows, zeros from n_rows on: (ROWS, PIECE) each."""
    at = ptr + row.to(tl.int64)[:, None] * (PIECE * N_PIECES) + tl.arange(0, PIECE)[None, :]
    pieces = ()
    for p in tl.static_range(N_PIECES):
        pieces = pieces + (tl.load(at + p * PIECE, mask=(row < n_rows)[:, None], other=0.0),)
    return pieces


@triton.jit
def add_product(pieces, a, w_ptr, k, PIECE: tl.constexpr, N_PIECES: tl.constexpr):
    """pieces + a (ROWS, K) @ rows `k` (K,) of a weight matrix of padded rows."""
    at = w_ptr + k[:, None] * (PIECE * N_PIECES) + tl.arange(0, PIECE)[None, :]
    added = ()
    for p in tl.static_range(N_PIECES):
        added = added + (tl.dot(a, tl.load(at + p * PIECE), pieces[p]),)
    return added


@triton.jit
def add_rows(pieces, others, N_PIECES: tl.constexpr):
    added = ()
    for p in tl.static_range(N_PIECES):
        added = added + (pieces[p] + others[p].to(tl.float32),)
    return added


@triton.jit
def add_vectors(pieces, x, b_ptr, PIECE: tl.constexpr, N_PIECES: tl.constexpr):
    """pieces + bias + residual."""
    column = tl.arange(0, PIECE)
    added = ()
    for p in tl.static_range(N_PIECES):
        bias = tl.load(b_ptr + p * PIECE + column).to(tl.float32)
        added = added + (pieces[p] + bias[None, :] + x[p].to(tl.float32),)
    return added


@triton.jit
def store_normed(
    pieces, norm_ptr, out_ptr, row, n_rows, hidden, eps, out_stride, PIECE: tl.constexpr, N_PIECES: tl.constexpr
):
    """LayerNorm over the true width; norm_ptr: weight, then bias. Columns from out_stride on are dropped."""
    column = tl.arange(0, PIECE)
    total = tl.sum(pieces[0], 1)
    for p in tl.static_range(1, N_PIECES):
        total += tl.sum(pieces[p], 1)
    mean = total / hidden
    squares = mean * 0.0
    for p in tl.static_range(N_PIECES):
        centred = tl.where((p * PIECE + column < hidden)[None, :], pieces[p] - mean[:, None], 0.0)
        squares += tl.sum(centred * centred, 1)
    scale = tl.rsqrt(squares / hidden + eps)
    at = out_ptr + row.to(tl.int64)[:, None] * out_stride
    for p in tl.static_range(N_PIECES):
        place = p * PIECE + column
        weight = tl.load(norm_ptr + place).to(tl.float32)
        bias = tl.load(norm_ptr + PIECE * N_PIECES + place).to(tl.float32)
        y = (pieces[p] - mean[:, None]) * scale[:, None] * weight[None, :] + bias[None, :]
        inside = (row < n_rows)[:, None] & (place < out_stride)[None, :]
        tl.store(at + place[None, :], y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def store_part(pieces, part_ptr, part, row, n_rows, stop, PIECE: tl.constexpr, N_PIECES: tl.constexpr):
    at = part_ptr + (part.to(tl.int64) * n_rows + row)[:, None] * (PIECE * N_PIECES) + tl.arange(0, PIECE)[None, :]
    for p in tl.static_range(N_PIECES):
        tl.store(at + p * PIECE, pieces[p], mask=(row < stop)[:, None])
