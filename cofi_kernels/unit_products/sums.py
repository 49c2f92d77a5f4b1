"""Sums over tokens, in two steps whose order is fixed: blocks of tokens first, then the blocks.

column_blocks   (blocks, C): sums over a block of tokens of each column of a (T, C) matrix
finish          db_in and dz_unit from their blocks, live rows get their sums, dead ones 0;
                db_out, dz_layer and dz_hidden from the blocks of sum_t dy and of the columns of z_unit W G
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.unit_products.folding import Masks
from cofi_kernels.unit_products.gradients import ProjectionSums, row_of
from cofi_kernels.unit_products.tiling import Work, padded_extent

TOKENS = 128  # of a block: 192 programs for 4,096 tokens of 768 columns
_STEP, _COLUMNS = 32, 128
_FINISH_REGISTERS = 128  # of a thread, for 25 programs: left alone, ptxas kept to 64 on sm_80 and spilled 8 bytes


@triton.jit(do_not_specialize=["n_tokens"])
def _column_blocks_kernel(
    x_ptr,
    sums_ptr,
    count_ptr,
    n_tokens,
    R: tl.constexpr,
    STRIDE: tl.constexpr,
    TOKENS: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Of all STRIDE columns; where R > 0, of as many as there are rows of live units."""
    n_columns = STRIDE  # a constant, or a multiple of PAD: a number of no known factor would be read 2 bytes at a time
    if R > 0:
        n_columns = padded_extent(tl.load(count_ptr) * R)
    block, column = tl.program_id(0), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    if tl.program_id(1) * COLUMNS < n_columns:
        total = tl.zeros((COLUMNS,), tl.float32)
        for first in range(0, TOKENS, STEP):
            token = block * TOKENS + first + tl.arange(0, STEP)
            here = (token < n_tokens)[:, None] & (column < n_columns)[None, :]
            x = tl.load(x_ptr + token[:, None].to(tl.int64) * STRIDE + column[None, :], mask=here, other=0.0)
            total += tl.sum(x.to(tl.float32), 0)
        tl.store(sums_ptr + block * STRIDE + column, total, mask=column < n_columns)


@triton.jit
def sum_of_blocks(blocks_ptr, n_blocks, column, n_columns, STRIDE: tl.constexpr, STEP: tl.constexpr):
    """Sum over the rows of blocks (n_blocks, STRIDE) at `column`."""
    total = tl.zeros_like(column).to(tl.float32)
    for first in range(0, n_blocks, STEP):
        block = first + tl.arange(0, STEP)
        here = (block < n_blocks)[:, None] & (column < n_columns)[None, :]
        total += tl.sum(tl.load(blocks_ptr + block[:, None] * STRIDE + column[None, :], mask=here, other=0.0), 0)
    return total


@triton.jit
def _finish_units(
    bias_blocks_ptr,
    row_blocks_ptr,
    db_ptr,
    dz_ptr,
    z_unit_ptr,
    live_ptr,
    n_live,
    n_bias_blocks,
    n_row_blocks,
    n_units,
    R: tl.constexpr,
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    HAS_UNIT: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program writes the sums of its places, wherever those rows are, and the zeros of its rows."""
    place = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    is_live = place < n_live * R
    row, unit = row_of(place, n_units, live_ptr, n_live, R, D)
    dead = (place < n_units * R) & (n_live < n_units)
    if HAS_UNIT:
        dead = dead & ((tl.load(z_unit_ptr + place // D % n_units, mask=dead, other=1.0) == 0.0) | (n_live == 0))
    db = sum_of_blocks(bias_blocks_ptr, n_bias_blocks, place, n_live * R, STRIDE, STEP)
    tl.store(db_ptr + row, db.to(db_ptr.dtype.element_ty), mask=is_live)
    tl.store(db_ptr + place, tl.zeros((COLUMNS,), db_ptr.dtype.element_ty), mask=dead)
    if HAS_ROWS:
        dz = sum_of_blocks(row_blocks_ptr, n_row_blocks, place, n_live, STRIDE, STEP)
        tl.store(dz_ptr + unit, dz.to(dz_ptr.dtype.element_ty), mask=is_live)
        tl.store(dz_ptr + place, tl.zeros((COLUMNS,), dz_ptr.dtype.element_ty), mask=dead)


@triton.jit
def _finish_hidden(
    dy_blocks_ptr,
    column_blocks_ptr,
    b_ptr,
    z_layer_ptr,
    z_hidden_ptr,
    db_ptr,
    dz_layer_ptr,
    dz_hidden_ptr,
    n_token_blocks,
    n_column_blocks,
    E: tl.constexpr,
    HAS_LAYER: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """For one program: dz_layer is a sum over all hidden dims."""
    z_layer = 1.0
    if HAS_LAYER:
        z_layer = tl.load(z_layer_ptr).to(tl.float32)
    dz_layer = tl.zeros((COLUMNS,), tl.float32)
    for first in range(0, E, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        z = tl.full((COLUMNS,), 1.0, tl.float32)
        if HAS_HIDDEN:
            z = tl.load(z_hidden_ptr + column, mask=column < E, other=0.0).to(tl.float32)
        masked = (z == 0.0) | (tl.zeros_like(z) + z_layer == 0.0)  # may hide what is not a number
        sum_dy = sum_of_blocks(dy_blocks_ptr, n_token_blocks, column, E, E, STEP)
        db = tl.where(masked, 0.0, sum_dy * z * z_layer)
        tl.store(db_ptr + column, db.to(db_ptr.dtype.element_ty), mask=column < E)
        if HAS_LAYER or HAS_HIDDEN:
            b = tl.load(b_ptr + column, mask=column < E, other=0.0).to(tl.float32)
            dy_y = sum_of_blocks(column_blocks_ptr, n_column_blocks, column, E, E, STEP) + b * sum_dy
            dz_layer += tl.where((column < E) & (z != 0.0), dy_y * z, 0.0)
            if HAS_HIDDEN:
                dz = tl.where(masked, 0.0, dy_y * z_layer)
                tl.store(dz_hidden_ptr + column, dz.to(dz_hidden_ptr.dtype.element_ty), mask=column < E)
    if HAS_LAYER:
        dz = tl.where(z_layer == 0.0, 0.0, tl.sum(dz_layer))
        tl.store(dz_layer_ptr, dz.to(dz_layer_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["n_bias_blocks", "n_row_blocks", "n_token_blocks", "n_units"])
def _finish_kernel(
    bias_blocks_ptr,
    row_blocks_ptr,
    db_in_ptr,
    dz_unit_ptr,
    dy_blocks_ptr,
    column_blocks_ptr,
    b_out_ptr,
    db_out_ptr,
    dz_layer_ptr,
    dz_hidden_ptr,
    z_unit_ptr,
    z_layer_ptr,
    z_hidden_ptr,
    count_ptr,
    live_ptr,
    n_bias_blocks,
    n_row_blocks,
    n_token_blocks,
    n_units,
    E: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    HAS_UNIT: tl.constexpr,
    HAS_LAYER: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    STEP: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The last program does the hidden dims, the others the units."""
    n_live = tl.load(count_ptr)
    if tl.program_id(0) < tl.num_programs(0) - 1:
        _finish_units(
            bias_blocks_ptr, row_blocks_ptr, db_in_ptr, dz_unit_ptr, z_unit_ptr, live_ptr, n_live, n_bias_blocks,
            n_row_blocks, n_units, R, D, STRIDE, HAS_UNIT, HAS_ROWS, STEP, COLUMNS,
        )  # fmt: skip
    else:
        n_column_blocks = tl.cdiv(n_live * D, BLOCK_M)
        _finish_hidden(
            dy_blocks_ptr, column_blocks_ptr, b_out_ptr, z_layer_ptr, z_hidden_ptr, db_out_ptr, dz_layer_ptr,
            dz_hidden_ptr, n_token_blocks, n_column_blocks, E, HAS_LAYER, HAS_HIDDEN, STEP, COLUMNS,
        )  # fmt: skip


class Sums(NamedTuple):
    """What there is to add up."""

    db_in: Tensor  # (blocks, columns): of a gradient of units, over tokens
    dy: Tensor  # (blocks, E): of dy, over tokens
    projection: ProjectionSums | None  # where there are no masks, nobody asks


class Finished(NamedTuple):
    """Where the sums go; None for what nobody wants. A mask has no gradient where it is 0."""

    db_in: Tensor  # (G, N D)
    db_out: Tensor  # (E,)
    dz_unit: Tensor | None  # (N,); for units of one row in one group
    dz_layer: Tensor | None  # 0-dim
    dz_hidden: Tensor | None  # (E,)


def new_finished(b_in: Tensor, b_out: Tensor, masks: Masks, *, with_units: bool) -> Finished:
    """Memory for `finish`; without units z_unit has its gradient from elsewhere."""
    unit, layer, hidden = (None if z is None else torch.empty_like(z) for z in masks)
    return Finished(torch.empty_like(b_in), torch.empty_like(b_out), unit if with_units else None, layer, hidden)


def column_blocks(x: Tensor, rows_per_unit: int = 0, work: Work | None = None) -> Tensor:
    """(blocks, C) fp32: sums of x (T, C) over blocks of tokens; with `work`, of its first padded(n R) columns alone."""
    n_tokens, n_columns = x.shape
    grid = (triton.cdiv(n_tokens, TOKENS), triton.cdiv(n_columns, _COLUMNS))
    blocks = torch.empty((grid[0], n_columns), dtype=torch.float32, device=x.device)
    if blocks.numel() > 0:
        with torch.cuda.device_of(x):
            _column_blocks_kernel[grid](
                x,
                blocks,
                None if work is None else work.n_live,
                n_tokens,
                R=rows_per_unit,
                STRIDE=n_columns,
                TOKENS=TOKENS,
                STEP=_STEP,
                COLUMNS=_COLUMNS,
            )
    return blocks


def finish(sums: Sums, b_out: Tensor, masks: Masks, rows_per_unit: int, work: Work, to: Finished) -> None:
    """Add up all blocks, in one launch. rows_per_unit = G D; b_out: (E,), the bias of the out-projection."""
    n_units = work.live.numel()
    units_blocks = triton.cdiv(to.db_in.numel(), _COLUMNS)
    groups = to.db_in.shape[0]
    rows, columns = (None, None) if sums.projection is None else (sums.projection.rows, sums.projection.columns)
    with torch.cuda.device_of(b_out):
        _finish_kernel[(units_blocks + 1,)](
            sums.db_in,
            rows,
            to.db_in,
            to.dz_unit,
            sums.dy,
            columns,
            b_out.contiguous(),
            to.db_out,
            to.dz_layer,
            to.dz_hidden,
            *masks,
            work.n_live,
            work.live,
            sums.db_in.shape[0],
            0 if rows is None else rows.shape[0],
            sums.dy.shape[0],
            n_units,
            E=b_out.shape[0],
            R=rows_per_unit,
            D=rows_per_unit // groups,
            STRIDE=sums.db_in.shape[1],
            HAS_UNIT=masks.unit is not None,
            HAS_LAYER=masks.layer is not None,
            HAS_HIDDEN=masks.hidden is not None,
            HAS_ROWS=to.dz_unit is not None,
            BLOCK_M=work.tiles.m,
            STEP=_STEP,
            COLUMNS=_COLUMNS,
            maxnreg=_FINISH_REGISTERS,
        )
