"""One pass over a sublayer's weights: the live units' rows are copied together, cast, and given the masks.

The pass that this replaces is made anyway: fp32 masters are cast to the activations' dtype each step. Plain matrices
come out, so every product is dense and reads no mask and no index. G groups of N units of D rows each, n of them live,
E hidden; z = z_hidden z_layer below, and an absent mask is 1.

    in-projection   (G, N D, E), (G, N D)   rows of live units, group after group, cast
    out-projection  (N D, E), (E,)          rows of live units times z_unit z, cast; the bias times z
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.unit_products.padding import PAD, TILE_COUNTERS
from cofi_kernels.unit_products.tiling import Work, padded_extent

_ROWS, _COLUMNS = 16, 256  # of a program's copies: 384 programs for a layer of BERT-base
_SCAN = 1024  # masks looked at together
_REGISTERS = 128  # of a thread, room for 4 programs: left alone, ptxas kept to 56 on sm_100 and spilled 8 bytes
_PAD = tl.constexpr(PAD)
_COUNTERS = tl.constexpr(TILE_COUNTERS)


class Masks(NamedTuple):
    """Masks of a sublayer, in any float dtype; None for 1."""

    unit: Tensor | None  # (N,)
    layer: Tensor | None  # 0-dim; 0 makes every unit dead
    hidden: Tensor | None  # (E,)


def contiguous_masks(unit: Tensor | None, layer: Tensor | None, hidden: Tensor | None) -> Masks:
    """As the launchers of this package take them."""
    return Masks(*(None if z is None else z.contiguous() for z in (unit, layer, hidden)))


class Folded(NamedTuple):
    """What `fold` writes. Rows past the live ones, up to a multiple of PAD, are zeros; the rest is not written."""

    w_in: Tensor  # (padded(G N D), E), first G n D rows, in the activations' dtype
    b_in: Tensor  # fp32 (padded(G N D),)
    w_out: Tensor  # (padded(N D), E), first n D rows, in the activations' dtype
    b_out: Tensor  # fp32 (E,)


@triton.jit
def _live_rows(z_ptr, end, layer_is_live, D: tl.constexpr, HAS_UNIT: tl.constexpr, SCAN: tl.constexpr):
    """How many of the rows before `end` belong to live units."""
    if HAS_UNIT:
        live = tl.zeros((SCAN,), tl.int32)
        for first in range(0, end, SCAN):
            row = first + tl.arange(0, SCAN)
            live += (tl.load(z_ptr + row // D, mask=row < end, other=0.0) != 0.0).to(tl.int32)
        n_live = tl.sum(live)
    else:
        n_live = end
    return n_live * layer_is_live


@triton.jit
def _live_block(
    z_ptr,
    z_layer_ptr,
    first,
    n_rows,
    D: tl.constexpr,
    HAS_UNIT: tl.constexpr,
    HAS_LAYER: tl.constexpr,
    ROWS: tl.constexpr,
    SCAN: tl.constexpr,
):
    """Of rows first to first + ROWS: which live, their places among the live, their masks; and 1 for a live layer."""
    layer_is_live = 1
    if HAS_LAYER:
        layer_is_live = (tl.load(z_layer_ptr) != 0.0).to(tl.int32)
    row = first + tl.arange(0, ROWS)
    live = row < n_rows
    z = tl.full((ROWS,), 1.0, tl.float32)
    if HAS_UNIT:
        z = tl.load(z_ptr + row // D, mask=live, other=0.0).to(tl.float32)
        live = live & (z != 0.0)
    live = live & (layer_is_live != 0)
    before = _live_rows(z_ptr, tl.minimum(first, n_rows), layer_is_live, D, HAS_UNIT, SCAN)
    place = before + tl.cumsum(live.to(tl.int32), 0) - 1
    return live, place, z, layer_is_live


@triton.jit
def _store_list(live_ptr, count_ptr, live, place, first, n_rows, D: tl.constexpr, ROWS: tl.constexpr):
    """The indices of these rows' live units; from the program with the last rows, how many there are in all."""
    row = first + tl.arange(0, ROWS)
    tl.store(live_ptr + place // D, row // D, mask=live & (row % D == 0))
    if first + ROWS >= n_rows:
        tl.store(count_ptr, (tl.max(place) + 1) // D)


@triton.jit
def _copy_rows(
    from_ptr,
    to_ptr,
    live,
    place,
    factor,
    E: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    z_hidden_ptr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Row i of `from` to row place[i] of `to` where live, times factor[i] and z_hidden."""
    row = tl.arange(0, ROWS)[:, None].to(tl.int64) * E
    to = place[:, None].to(tl.int64) * E
    for first in range(0, E, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        scale, masked = factor[:, None], factor[:, None] == 0.0
        if HAS_HIDDEN:
            z_hidden = tl.load(z_hidden_ptr + column, mask=column < E, other=0.0).to(tl.float32)[None, :]
            scale, masked = scale * z_hidden, masked | (z_hidden == 0.0)
        here = live[:, None] & (column < E)[None, :]
        w = tl.load(from_ptr + row + column[None, :], mask=here, other=0.0).to(tl.float32)
        w = tl.where(masked, 0.0, w * scale)  # what is not a number may hide behind a mask of 0
        tl.store(to_ptr + to + column[None, :], w.to(to_ptr.dtype.element_ty), mask=here)


@triton.jit
def _zero_rows(to_ptr, first, end, E: tl.constexpr, COLUMNS: tl.constexpr):
    """Zeros in rows first to end of `to`, fewer than PAD."""
    row = first + tl.arange(0, _PAD)
    for first_column in range(0, E, COLUMNS):
        column = first_column + tl.arange(0, COLUMNS)
        here = (row < end)[:, None] & (column < E)[None, :]
        zero = tl.zeros((_PAD, COLUMNS), to_ptr.dtype.element_ty)
        tl.store(to_ptr + row[:, None].to(tl.int64) * E + column[None, :], zero, mask=here)


@triton.jit
def _fold_kernel(
    w_in_ptr,
    b_in_ptr,
    w_out_ptr,
    b_out_ptr,
    z_unit_ptr,
    z_layer_ptr,
    z_hidden_ptr,
    to_w_in_ptr,
    to_b_in_ptr,
    to_w_out_ptr,
    to_b_out_ptr,
    live_ptr,
    count_ptr,
    counters_ptr,
    n_rows,
    E: tl.constexpr,
    D: tl.constexpr,
    GROUPS: tl.constexpr,
    HAS_UNIT: tl.constexpr,
    HAS_LAYER: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SCAN: tl.constexpr,
):
    """Programs (blocks of rows, GROUPS + 1): the groups of the in-projection; the out-projection and the list."""
    first, group = tl.program_id(0) * ROWS, tl.program_id(1)
    live, place, z, layer_is_live = _live_block(
        z_unit_ptr, z_layer_ptr, first, n_rows, D, HAS_UNIT, HAS_LAYER, ROWS, SCAN
    )
    is_last = first + ROWS >= n_rows
    if group < GROUPS:
        n_live = _live_rows(z_unit_ptr, n_rows, layer_is_live, D, HAS_UNIT, SCAN)
        place += group * n_live
        source = group.to(tl.int64) * n_rows + first
        one = tl.full((ROWS,), 1.0, tl.float32)
        _copy_rows(w_in_ptr + source * E, to_w_in_ptr, live, place, one, E, False, z_hidden_ptr, ROWS, COLUMNS)
        bias = tl.load(b_in_ptr + source + tl.arange(0, ROWS), mask=live, other=0.0).to(tl.float32)
        tl.store(to_b_in_ptr + place, bias, mask=live)
        if is_last & (group == GROUPS - 1):
            end = padded_extent(GROUPS * n_live)
            pad = GROUPS * n_live + tl.arange(0, _PAD)
            _zero_rows(to_w_in_ptr, GROUPS * n_live, end, E, COLUMNS)
            tl.store(to_b_in_ptr + pad, tl.zeros((_PAD,), tl.float32), mask=pad < end)
    else:
        z_layer = 1.0
        if HAS_LAYER:
            z_layer = tl.load(z_layer_ptr).to(tl.float32)
        from_ptr = w_out_ptr + first.to(tl.int64) * E
        _copy_rows(from_ptr, to_w_out_ptr, live, place, z * z_layer, E, HAS_HIDDEN, z_hidden_ptr, ROWS, COLUMNS)
        _store_list(live_ptr, count_ptr, live, place, first, n_rows, D, ROWS)
        if is_last:
            n_live = tl.max(place) + 1
            _zero_rows(to_w_out_ptr, n_live, padded_extent(n_live), E, COLUMNS)
        if first == 0:
            counter = tl.arange(0, _COUNTERS)
            tl.store(counters_ptr + counter, tl.zeros((_COUNTERS,), tl.int32))
            one_row = tl.arange(0, ROWS)
            factor = tl.full((ROWS,), 1.0, tl.float32) * z_layer
            _copy_rows(
                b_out_ptr, to_b_out_ptr, one_row == 0, one_row * 0, factor, E, HAS_HIDDEN, z_hidden_ptr, ROWS, COLUMNS
            )


def fold(w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, masks: Masks, work: Work, out: Folded) -> None:
    """Fill `out` and the list, count and counters of `work`.

    w_in: (G, N D, E), b_in: (G, N D), w_out: (N D, E), b_out: (E,), in fp32 or the activations' dtype
    """
    w_in, b_in, w_out, b_out = (t.contiguous() for t in (w_in, b_in, w_out, b_out))
    groups, n_rows, n_hidden = w_in.shape
    n_units = work.live.numel()
    grid = (max(triton.cdiv(n_rows, _ROWS), 1), groups + 1)
    with torch.cuda.device_of(w_in):
        _fold_kernel[grid](
            w_in,
            b_in,
            w_out,
            b_out,
            *masks,
            *out,
            work.live,
            work.n_live,
            work.counters,
            n_rows,
            E=n_hidden,
            D=n_rows // n_units if n_units else 1,
            GROUPS=groups,
            HAS_UNIT=masks.unit is not None,
            HAS_LAYER=masks.layer is not None,
            HAS_HIDDEN=masks.hidden is not None,
            ROWS=_ROWS,
            COLUMNS=_COLUMNS,
            SCAN=_SCAN,
            maxnreg=_REGISTERS,
        )
