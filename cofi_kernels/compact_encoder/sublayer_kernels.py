# mypy: disallow-untyped-defs=False
"""Sublayers of the compact encoder in Triton: what a kernel takes, and what each program computes.

T rows, E hidden dims stored in pieces, see `pieces.py`. Weights lie as `padded.py` lays them out.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from cofi_kernels.compact_encoder.pieces import (
    add_product,
    add_rows,
    add_vectors,
    load_rows,
    store_normed,
    store_part,
    zeros,
)
from cofi_kernels.dependent import wait_for_inputs
from cofi_kernels.masked_ffn.activations import CUBIC, TANH_COEFFICIENT

LOG2_E = 1.4426950408889634
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))
_TANH = tl.constexpr(2.0 * TANH_COEFFICIENT)  # (1 + tanh(v)) / 2 = sigmoid(2 v)
_CUBIC = tl.constexpr(CUBIC)


@triton.jit
def _activate(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == "gelu":
        return 0.5 * u * (1.0 + tl.erf(u * _SQRT_HALF))
    if ACTIVATION == "gelu_new":
        return u * tl.sigmoid((u + u * u * u * _CUBIC) * _TANH)
    return tl.where(u < 0.0, 0.0, u)  # a maximum would lose a NaN


@triton.jit(do_not_specialize=["n_rows", "n_int"])
def ffn_kernel(
    x_ptr,
    w_up_ptr,
    b_up_ptr,
    w_down_ptr,
    b_down_ptr,
    norm_ptr,
    out_ptr,
    part_ptr,
    n_rows,
    n_int,
    hidden,
    eps,
    out_stride,
    ACTIVATION: tl.constexpr,
    PIECE: tl.constexpr,
    N_PIECES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_I: tl.constexpr,
    SPLIT: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """A block of rows through up, activation, down, bias, residual and LayerNorm; or a part of the sum over dims.

    n_int: dims of a program, a multiple of BLOCK_I; SPLIT: program (i, j) stores the sum over the j-th dims alone.
    """
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    first_dim = tl.program_id(1) * n_int
    x = load_rows(x_ptr, row, n_rows, PIECE, N_PIECES)
    y = zeros(BLOCK_M, PIECE, N_PIECES)
    column = tl.arange(0, PIECE)
    for first in range(0, n_int, BLOCK_I):
        dim = first_dim + first + tl.arange(0, BLOCK_I)
        up = w_up_ptr + dim[:, None] * (PIECE * N_PIECES) + column[None, :]
        u = tl.zeros((BLOCK_M, BLOCK_I), tl.float32)
        for p in tl.static_range(N_PIECES):
            u = tl.dot(x[p], tl.trans(tl.load(up + p * PIECE)), u)
        h = _activate(u + tl.load(b_up_ptr + dim).to(tl.float32)[None, :], ACTIVATION)
        y = add_product(y, h.to(w_down_ptr.dtype.element_ty), w_down_ptr, dim, PIECE, N_PIECES)
    if SPLIT:
        store_part(y, part_ptr, tl.program_id(1), row, n_rows, n_rows, PIECE, N_PIECES)
    else:
        y = add_vectors(y, x, b_down_ptr, PIECE, N_PIECES)
        store_normed(y, norm_ptr, out_ptr, row, n_rows, hidden, eps, out_stride, PIECE, N_PIECES)


@triton.jit
def _attend(
    q, qkv_ptr, length, stride, k_at, v_at, scale, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """softmax(scale q k^T) v over all keys of one sequence, fp32 (BLOCK_M, D). scale: log2(e) / sqrt(D)."""
    dim = tl.arange(0, D)
    highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    context = tl.zeros((BLOCK_M, D), tl.float32)
    for first_key in range(0, length, BLOCK_N):
        key = first_key + tl.arange(0, BLOCK_N)
        at = qkv_ptr + key[:, None] * stride + dim[None, :]
        k = tl.load(at + k_at, mask=(key < length)[:, None], other=0.0)
        v = tl.load(at + v_at, mask=(key < length)[:, None], other=0.0)
        s = tl.dot(q, tl.trans(k)) * scale
        s = tl.where((key < length)[None, :], s, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(s, 1))
        p = tl.exp2(s - new_highest[:, None])
        shrink = tl.exp2(highest - new_highest)
        total, highest = total * shrink + tl.sum(p, 1), new_highest
        context = tl.dot(p.to(v.dtype), v, context * shrink[:, None])
    return context / total[:, None]


@triton.jit(do_not_specialize=["n_tokens", "n_heads", "heads_per_part"])
def attention_kernel(
    qkv_ptr,
    cu_seqlens_ptr,
    x_ptr,
    w_ptr,
    b_ptr,
    norm_ptr,
    out_ptr,
    part_ptr,
    n_tokens,
    n_heads,
    heads_per_part,
    hidden,
    eps,
    out_stride,
    scale,
    MODE: tl.constexpr,
    D: tl.constexpr,
    PIECE: tl.constexpr,
    N_PIECES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Program (b, i, j): the i-th block of queries of sequence b, the j-th heads_per_part heads.

    MODE: "whole" adds the output projection of all heads, bias and residual, and normalises; "part" stores the
    projection of its heads in part j; "context" stores what the heads give, (T, H D), into `part_ptr`.
    """
    wait_for_inputs(DEPENDENT)
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens_ptr + tl.program_id(0)), 0), n_tokens)
    end = tl.minimum(tl.load(cu_seqlens_ptr + tl.program_id(0) + 1), n_tokens)
    length = end - start
    query = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    if tl.program_id(1) * BLOCK_M >= length:
        return
    stride = 3 * n_heads * D
    qkv_ptr += start.to(tl.int64) * stride
    dim = tl.arange(0, D)
    row = start + query
    first_head = tl.program_id(2) * heads_per_part
    y = zeros(BLOCK_M, PIECE, N_PIECES)
    for head in range(first_head, tl.minimum(first_head + heads_per_part, n_heads)):
        at = qkv_ptr + query[:, None] * stride + head * D + dim[None, :]
        q = tl.load(at, mask=(query < length)[:, None], other=0.0)
        k_at, v_at = (n_heads + head) * D, (2 * n_heads + head) * D
        context = _attend(q, qkv_ptr, length, stride, k_at, v_at, scale, D, BLOCK_M, BLOCK_N).to(q.dtype)
        if MODE == "context":
            place = part_ptr + row.to(tl.int64)[:, None] * (n_heads * D) + head * D + dim[None, :]
            tl.store(place, context, mask=(query < length)[:, None])
        else:
            y = add_product(y, context, w_ptr, head * D + dim, PIECE, N_PIECES)
    if MODE == "part":
        store_part(y, part_ptr, tl.program_id(2), row, n_tokens, end, PIECE, N_PIECES)
    if MODE == "whole":
        x = load_rows(x_ptr, row, end, PIECE, N_PIECES)
        y = add_vectors(y, x, b_ptr, PIECE, N_PIECES)
        store_normed(y, norm_ptr, out_ptr, row, end, hidden, eps, out_stride, PIECE, N_PIECES)


@triton.jit(do_not_specialize=["n_rows"])
def linear_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    out_ptr,
    n_rows,
    n_columns,
    depth,
    ACTIVATION: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """activation(x (n_rows, depth) @ w (depth, n_columns) + b). TRANSPOSED: w is (n_columns, depth); b may be None."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row_inside, column_inside = row < n_rows, column < n_columns
    x_at = x_ptr + row.to(tl.int64)[:, None] * depth
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, depth, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        x = tl.load(x_at + k[None, :], mask=row_inside[:, None], other=0.0)
        if TRANSPOSED:
            w = tl.load(w_ptr + column[:, None] * depth + k[None, :], mask=column_inside[:, None], other=0.0)
            y = tl.dot(x, tl.trans(w), y)
        else:
            w = tl.load(w_ptr + k[:, None] * n_columns + column[None, :], mask=column_inside[None, :], other=0.0)
            y = tl.dot(x, w, y)
    if b_ptr is not None:
        y += tl.load(b_ptr + column, mask=column_inside, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION is not None:
        y = _activate(y, ACTIVATION)
    place = out_ptr + row.to(tl.int64)[:, None] * n_columns + column[None, :]
    tl.store(place, y.to(out_ptr.dtype.element_ty), mask=row_inside[:, None] & column_inside[None, :])


@triton.jit(do_not_specialize=["n_rows", "n_parts"])
def finish_kernel(
    part_ptr,
    x_ptr,
    b_ptr,
    norm_ptr,
    out_ptr,
    n_rows,
    n_parts,
    hidden,
    eps,
    out_stride,
    PIECE: tl.constexpr,
    N_PIECES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """LayerNorm(sum of the parts (n_parts, n_rows, padded row) in their order + bias + residual)."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    y = zeros(BLOCK_M, PIECE, N_PIECES)
    size = n_rows.to(tl.int64) * (PIECE * N_PIECES)
    for i in range(n_parts):
        part = load_rows(part_ptr + i * size, row, n_rows, PIECE, N_PIECES)
        y = add_rows(y, part, N_PIECES)
    x = load_rows(x_ptr, row, n_rows, PIECE, N_PIECES)
    y = add_vectors(y, x, b_ptr, PIECE, N_PIECES)
    store_normed(y, norm_ptr, out_ptr, row, n_rows, hidden, eps, out_stride, PIECE, N_PIECES)


@triton.jit(do_not_specialize=["n_rows"])
def pad_kernel(
    x_ptr, out_ptr, n_rows, hidden: tl.constexpr, WIDTH: tl.constexpr, BLOCK_M: tl.constexpr, DEPENDENT: tl.constexpr
):
    """Rows of `hidden` dims to rows of WIDTH, zeros behind."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    at = row.to(tl.int64)[:, None]
    for start in tl.static_range(0, WIDTH, 64):
        column = start + tl.arange(0, 64)
        inside = (row < n_rows)[:, None]
        x = tl.load(x_ptr + at * hidden + column[None, :], mask=inside & (column < hidden)[None, :], other=0.0)
        tl.store(out_ptr + at * WIDTH + column[None, :], x, mask=inside)
