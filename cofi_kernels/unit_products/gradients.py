"""Weight gradients of a masked sublayer, a product whose output size is read on the device.

    dw = c^T x into the rows of live units, zeros in the others    c (T, n R), x (T, E)     "TN"

That of an out-projection W has all masks folded into W, so it takes them as factors: with G = c^T dy,

    dW = z_unit G z_hidden z_layer    row sums of W G z_hidden z_layer: dz_unit    column sums of z_unit W G

n live units of R rows (R = G D: G groups of D), E hidden, T tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.unit_products.folding import Masks
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
)

_ZERO_ROWS, _ZERO_COLUMNS = 16, 256


@triton.jit
def row_of(place, n_units, live_ptr, n_live, R: tl.constexpr, D: tl.constexpr):
    """Row of the weight (R / D groups of n_units D rows) that compact row `place` was copied from."""
    if R == D:
        group, inside = 0, place
    else:
        group_rows = tl.maximum(n_live * D, 1)
        group, inside = place // group_rows, place % group_rows
    unit = tl.load(live_ptr + inside // D, mask=place < n_live * R, other=0)
    return (group * n_units + unit) * D + inside % D, unit


@triton.jit
def _zero_dead_rows(
    to_ptr, z_unit_ptr, n_live, n_units, E: tl.constexpr, R: tl.constexpr, D: tl.constexpr, HAS_UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Zeros in the rows of dead units; all of them where no unit lives. The programs share the work."""
    if n_live < n_units:
        for block in range(tl.program_id(0), tl.cdiv(n_units * R, ROWS), tl.num_programs(0)):
            row = block * ROWS + tl.arange(0, ROWS)
            dead = row < n_units * R
            if HAS_UNIT:
                z = tl.load(z_unit_ptr + row // D % n_units, mask=dead, other=1.0)
                dead = dead & ((z == 0.0) | (n_live == 0))
            to = to_ptr + row[:, None].to(tl.int64) * E
            for first in range(0, E, COLUMNS):
                column = first + tl.arange(0, COLUMNS)
                zero = tl.zeros((ROWS, COLUMNS), to_ptr.dtype.element_ty)
                tl.store(to + column[None, :], zero, mask=dead[:, None] & (column < E)[None, :])


@triton.jit
def _store_gradient(
    total, dw_ptr, w_ptr, z_unit_ptr, z_layer_ptr, z_hidden_ptr, row_sums_ptr, column_sums_ptr, live_ptr,
    first_m, first_n, n_live, n_units, E: tl.constexpr, R: tl.constexpr, D: tl.constexpr, COLUMNS: tl.constexpr,
    IS_OUT: tl.constexpr, HAS_UNIT: tl.constexpr, HAS_LAYER: tl.constexpr, HAS_HIDDEN: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Half a tile to its rows, and with IS_OUT the sums of its rows and columns."""
    place, n = first_m + tl.arange(0, BLOCK_M), first_n + tl.arange(0, BLOCK_N)
    row, unit = row_of(place, n_units, live_ptr, n_live, R, D)
    is_row, is_column = place < n_live * R, n < E
    cell, here = row[:, None] * E + n[None, :], is_row[:, None] & is_column[None, :]
    if IS_OUT:
        z_row = tl.full((BLOCK_M,), 1.0, tl.float32)
        z_column = tl.full((BLOCK_N,), 1.0, tl.float32)
        if HAS_UNIT:
            z_row = tl.load(z_unit_ptr + unit, mask=is_row, other=0.0).to(tl.float32)
        if HAS_HIDDEN:
            z_column = tl.load(z_hidden_ptr + n, mask=is_column, other=0.0).to(tl.float32)
        if HAS_LAYER:
            z_column *= tl.load(z_layer_ptr).to(tl.float32)
        product = tl.load(w_ptr + cell, mask=here, other=0.0).to(tl.float32) * tl.where(here, total, 0.0)
        sums = tl.sum(product * z_column[None, :], 1)
        tl.store(row_sums_ptr + first_n // BLOCK_N * COLUMNS + place, sums, mask=is_row)
        sums = tl.sum(product * z_row[:, None], 0)
        tl.store(column_sums_ptr + first_m // BLOCK_M * E + n, sums, mask=is_column)
        total *= z_row[:, None] * z_column[None, :]
    tl.store(dw_ptr + cell, total.to(dw_ptr.dtype.element_ty), mask=here)


@triton.jit(do_not_specialize=["n_tokens", "n_units"])
def _weight_gradients_kernel(
    d_in_ptr,
    x_ptr,
    dw_in_ptr,
    c_ptr,
    dy_ptr,
    dw_out_ptr,
    w_out_ptr,
    z_unit_ptr,
    z_layer_ptr,
    z_hidden_ptr,
    row_sums_ptr,
    column_sums_ptr,
    parts_ptr,
    counters_ptr,
    count_ptr,
    live_ptr,
    n_tokens,
    n_units,
    E: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    COLUMNS_IN: tl.constexpr,
    COLUMNS_OUT: tl.constexpr,
    WITH_SUMS: tl.constexpr,
    HAS_UNIT: tl.constexpr,
    HAS_LAYER: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    ZERO_ROWS: tl.constexpr,
    ZERO_COLUMNS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """The tiles of the in-projection's gradient, then those of the out-projection's."""
    HALF: tl.constexpr = BLOCK_N // 2
    n_live = tl.load(count_ptr)
    across, k_steps = tl.cdiv(E, BLOCK_N), tl.cdiv(n_tokens, BLOCK_K)
    tiles_in = tl.cdiv(n_live * R, BLOCK_M) * across
    n_tiles = tiles_in + tl.cdiv(n_live * D, BLOCK_M) * across
    whole, parts = split_last_round(n_tiles, k_steps)
    for piece in range(tl.program_id(0), whole + (n_tiles - whole) * parts, tl.num_programs(0)):
        tile, part, n_parts, cut_tile, k_from, k_to = piece_of(piece, whole, parts, k_steps, BLOCK_K)
        is_out = tile >= tiles_in
        tile = tl.where(is_out, tile - tiles_in, tile)
        first_m, first_n = tile // across * BLOCK_M, tile % across * BLOCK_N
        a_ptr, b_ptr, columns = d_in_ptr, x_ptr, COLUMNS_IN  # one loop for both, or each would have its own buffers
        if is_out:
            a_ptr, b_ptr, columns = c_ptr, dy_ptr, COLUMNS_OUT
        n_rows = padded_extent(n_live * tl.where(is_out, D, R))
        total = accumulate(
            a_ptr, b_ptr, first_m, first_n, k_from, k_to, n_rows, E, n_tokens,
            1, columns, E, 1, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        left, right = halves(total, BLOCK_M, HALF)
        if announce(left, right, parts_ptr, counters_ptr, cut_tile, part, n_parts, BLOCK_M, HALF):
            for half in tl.static_range(2):
                half_tile = combine(right if half else left, parts_ptr, cut_tile, n_parts, half, BLOCK_M, HALF)
                if is_out:
                    _store_gradient(
                        half_tile, dw_out_ptr, w_out_ptr, z_unit_ptr, z_layer_ptr, z_hidden_ptr, row_sums_ptr,
                        column_sums_ptr, live_ptr, first_m, first_n + half * HALF, n_live, n_units, E, D, D,
                        COLUMNS_OUT, WITH_SUMS, HAS_UNIT, HAS_LAYER, HAS_HIDDEN, BLOCK_M, HALF,
                    )  # fmt: skip
                else:
                    _store_gradient(
                        half_tile, dw_in_ptr, w_out_ptr, z_unit_ptr, z_layer_ptr, z_hidden_ptr, row_sums_ptr,
                        column_sums_ptr, live_ptr, first_m, first_n + half * HALF, n_live, n_units, E, R, D,
                        COLUMNS_IN, False, HAS_UNIT, HAS_LAYER, HAS_HIDDEN, BLOCK_M, HALF,
                    )  # fmt: skip
    _zero_dead_rows(dw_in_ptr, z_unit_ptr, n_live, n_units, E, R, D, HAS_UNIT, ZERO_ROWS, ZERO_COLUMNS)
    _zero_dead_rows(dw_out_ptr, z_unit_ptr, n_live, n_units, E, D, D, HAS_UNIT, ZERO_ROWS, ZERO_COLUMNS)


class ProjectionSums:
    """Sums over tiles of weight * z * G, which `sums.finish` adds up: of rows and of columns of the out-projection."""

    def __init__(self, n_columns: int, n_hidden: int, work: Work) -> None:
        across, down = 2 * triton.cdiv(n_hidden, work.tiles.n), triton.cdiv(n_columns, work.tiles.m)
        device = work.counters.device
        self.rows = torch.empty((across, n_columns), dtype=torch.float32, device=device)
        self.columns = torch.empty((down, n_hidden), dtype=torch.float32, device=device)


class Product(NamedTuple):
    """A weight gradient: of units (T, columns) and hidden (T, E), into dw (G, N D, E)."""

    units: Tensor
    hidden: Tensor
    dw: Tensor


def weight_gradients(to_in: Product, to_out: Product, w_out: Tensor, masks: Masks, work: Work) -> ProjectionSums | None:
    """Both weight gradients of a sublayer in one launch, zeros in the rows of dead units.

    to_in: its gradient before the in-projection's bias, its input, dw_in (G, N D, E)
    to_out: the input of its out-projection without z_unit, dy, dw_out (1, N D, E); w_out: (N D, E), contiguous
    returns what `sums.finish` needs for the gradients of the masks; None where there is no mask
    """
    n_units, n_rows = work.live.numel(), w_out.shape[0]
    unit_rows = n_rows // n_units if n_units else 1
    sums = None if all(z is None for z in masks) else ProjectionSums(to_out.units.shape[1], w_out.shape[1], work)
    with torch.cuda.device_of(w_out):
        _weight_gradients_kernel[(work.programs,)](
            *to_in,
            *to_out,
            w_out,
            *masks,
            None if sums is None else sums.rows,
            None if sums is None else sums.columns,
            work.parts,
            work.counters,
            work.n_live,
            work.live,
            to_in.hidden.shape[0],
            n_units,
            E=w_out.shape[1],
            R=to_in.dw.shape[0] * unit_rows,
            D=unit_rows,
            COLUMNS_IN=to_in.units.shape[1],
            COLUMNS_OUT=to_out.units.shape[1],
            WITH_SUMS=sums is not None,
            HAS_UNIT=masks.unit is not None,
            HAS_LAYER=masks.layer is not None,
            HAS_HIDDEN=masks.hidden is not None,
            PRECISION=precision_of(to_in.units),
            ZERO_ROWS=_ZERO_ROWS,
            ZERO_COLUMNS=_ZERO_COLUMNS,
            **work.tiles.constants(),
        )
    return sums
