"""Products of a masked sublayer with one size read on the device: n live units of R rows (R = G D), E hidden, T tokens.

    project_in      y (T, n R) = x (T, E) w (n R, E)^T + b     "NT"
    project_out     y (T, E)   = c (T, n R) w (n R, E) + b     "NN"

Activations of units have `columns` columns, a number known on the host; the first padded(n R) hold something.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.unit_products.tiling import (
    Work,
    accumulate,
    announce,
    combine,
    halves,
    padded_extent,
    piece_of,
    precision_of,
    split_last_round,
    store_tile,
)


@triton.jit
def _store_with_bias(
    y_ptr, y, b_ptr, first_m, first_n, n_m, n_n, STRIDE: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_M: tl.constexpr,
    HALF: tl.constexpr,
):  # fmt: skip
    if HAS_BIAS:
        n = first_n + tl.arange(0, HALF)
        y += tl.load(b_ptr + n, mask=n < n_n, other=0.0)[None, :]
    store_tile(y_ptr, y, first_m, first_n, n_m, n_n, STRIDE, BLOCK_M, HALF)


@triton.jit(do_not_specialize=["n_tokens"])
def _project_in_kernel(
    x_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    parts_ptr,
    counters_ptr,
    count_ptr,
    n_tokens,
    E: tl.constexpr,
    R: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    HALF: tl.constexpr = BLOCK_N // 2
    n_rows = padded_extent(tl.load(count_ptr) * R)
    across, k_steps = tl.cdiv(n_rows, BLOCK_N), tl.cdiv(E, BLOCK_K)
    n_tiles = tl.cdiv(n_tokens, BLOCK_M) * across
    whole, parts = split_last_round(n_tiles, k_steps)
    for piece in range(tl.program_id(0), whole + (n_tiles - whole) * parts, tl.num_programs(0)):
        tile, part, n_parts, cut_tile, k_from, k_to = piece_of(piece, whole, parts, k_steps, BLOCK_K)
        first_m, first_n = tile // across * BLOCK_M, tile % across * BLOCK_N
        total = accumulate(
            x_ptr, w_ptr, first_m, first_n, k_from, k_to, n_tokens, n_rows, E,
            E, 1, 1, E, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        left, right = halves(total, BLOCK_M, HALF)
        if announce(left, right, parts_ptr, counters_ptr, cut_tile, part, n_parts, BLOCK_M, HALF):
            left = combine(left, parts_ptr, cut_tile, n_parts, 0, BLOCK_M, HALF)
            _store_with_bias(y_ptr, left, b_ptr, first_m, first_n, n_tokens, n_rows, COLUMNS, HAS_BIAS, BLOCK_M, HALF)
            right = combine(right, parts_ptr, cut_tile, n_parts, 1, BLOCK_M, HALF)
            _store_with_bias(
                y_ptr, right, b_ptr, first_m, first_n + HALF, n_tokens, n_rows, COLUMNS, HAS_BIAS, BLOCK_M, HALF
            )


@triton.jit(do_not_specialize=["n_tokens"])
def _project_out_kernel(
    c_ptr,
    w_ptr,
    b_ptr,
    y_ptr,
    parts_ptr,
    counters_ptr,
    count_ptr,
    n_tokens,
    E: tl.constexpr,
    R: tl.constexpr,
    COLUMNS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    HALF: tl.constexpr = BLOCK_N // 2
    n_rows = padded_extent(tl.load(count_ptr) * R)
    across, k_steps = tl.cdiv(E, BLOCK_N), tl.cdiv(n_rows, BLOCK_K)
    n_tiles = tl.cdiv(n_tokens, BLOCK_M) * across
    whole, parts = split_last_round(n_tiles, k_steps)
    for piece in range(tl.program_id(0), whole + (n_tiles - whole) * parts, tl.num_programs(0)):
        tile, part, n_parts, cut_tile, k_from, k_to = piece_of(piece, whole, parts, k_steps, BLOCK_K)
        first_m, first_n = tile // across * BLOCK_M, tile % across * BLOCK_N
        total = accumulate(
            c_ptr, w_ptr, first_m, first_n, k_from, k_to, n_tokens, E, n_rows,
            COLUMNS, 1, E, 1, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        left, right = halves(total, BLOCK_M, HALF)
        if announce(left, right, parts_ptr, counters_ptr, cut_tile, part, n_parts, BLOCK_M, HALF):
            for half in tl.static_range(2):
                y = combine(right if half else left, parts_ptr, cut_tile, n_parts, half, BLOCK_M, HALF)
                n = first_n + half * HALF
                _store_with_bias(y_ptr, y, b_ptr, first_m, n, n_tokens, E, E, HAS_BIAS, BLOCK_M, HALF)


def project_in(x: Tensor, w: Tensor, b: Tensor | None, y: Tensor, rows_per_unit: int, work: Work) -> None:
    """y (T, columns), its first padded(n R) columns, = x (T, E) w^T + b.

    w: (padded(N R), E), b: fp32 (padded(N R),): as `folding.fold` writes them; R = rows_per_unit (G D, or D)
    """
    with torch.cuda.device_of(x):
        _project_in_kernel[(work.programs,)](
            x,
            w,
            b,
            y,
            work.parts,
            work.counters,
            work.n_live,
            x.shape[0],
            E=x.shape[1],
            R=rows_per_unit,
            COLUMNS=y.shape[1],
            HAS_BIAS=b is not None,
            PRECISION=precision_of(x),
            **work.tiles.constants(),
        )


def project_out(c: Tensor, w: Tensor, b: Tensor | None, y: Tensor, rows_per_unit: int, work: Work) -> None:
    """y (T, E) = c w + b, of c (T, columns) the first n R columns; arguments as for `project_in`, b (E,).

    What lies in c past padded(n R) is not read, and what lies between n R and that must be finite.
    """
    with torch.cuda.device_of(c):
        _project_out_kernel[(work.programs,)](
            c,
            w,
            b,
            y,
            work.parts,
            work.counters,
            work.n_live,
            c.shape[0],
            E=y.shape[1],
            R=rows_per_unit,
            COLUMNS=c.shape[1],
            HAS_BIAS=b is not None,
            PRECISION=precision_of(c),
            **work.tiles.constants(),
        )
