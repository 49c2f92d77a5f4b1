"""Masked feed-forward in Triton: dense products over the live dims, whose number is read on the device.

    forward    fold; up-projection with bias, activation and its derivative; down-projection with its bias
    backward   du with act' and blocks of db_up; dx; dw_up, dw_down and sums for the masks; blocks of dy; sums

n live of I intermediate dims, C = padded(I) columns, E hidden, T tokens. A dead layer has no live dim.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.masked_ffn import workspace
from cofi_kernels.masked_ffn.activations import CUBIC, TANH_COEFFICIENT
from cofi_kernels.unit_products import folding, gradients, products, sums
from cofi_kernels.unit_products.folding import Folded
from cofi_kernels.unit_products.padding import padded
from cofi_kernels.unit_products.tiling import (
    Work,
    accumulate,
    announce,
    combine,
    halves,
    new_work,
    padded_extent,
    piece_of,
    precision_of,
    split_last_round,
    store_tile,
)

_CUBIC, _TWICE_TANH_COEFFICIENT = tl.constexpr(CUBIC), tl.constexpr(2.0 * TANH_COEFFICIENT)


@triton.jit
def _gelu(u):
    """u Phi(u) and its derivative Phi(u) + u phi(u), with one exponential for both.

    Abramowitz and Stegun 7.1.26 for erf: Phi(-|u|) is exp(-u^2 / 2) times a polynomial in 1 / (1 + c |u|), within 8e-8.
    """
    density = tl.exp(-0.5 * u * u)
    t = 1.0 / (1.0 + 0.23164189 * tl.abs(u))  # 0.3275911 / sqrt(2)
    tail = t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    tail = 0.5 * density * t * (0.254829592 + tail)
    phi = tl.where(u >= 0.0, 1.0 - tail, tail)
    return u * phi, phi + 0.3989422804 * u * density


@triton.jit
def _gelu_new(u):
    """0.5 u (1 + tanh(a)) = u sigmoid(2 a), and its derivative."""
    sigmoid = tl.sigmoid((u + u * u * u * _CUBIC) * _TWICE_TANH_COEFFICIENT)
    slope = (1.0 + u * u * _CUBIC * 3.0) * _TWICE_TANH_COEFFICIENT
    return u * sigmoid, sigmoid + u * sigmoid * (1.0 - sigmoid) * slope


@triton.jit
def _relu(u):
    return tl.where(u < 0.0, 0.0, u), (u > 0.0).to(tl.float32)  # a maximum would lose a NaN


@triton.jit
def _activate(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == "gelu":
        h, derivative = _gelu(u)
    elif ACTIVATION == "gelu_new":
        h, derivative = _gelu_new(u)
    else:
        tl.static_assert(ACTIVATION == "relu")
        h, derivative = _relu(u)
    return h, derivative


@triton.jit(do_not_specialize=["n_tokens"])
def _masked_ffn_fwd_kernel_up(
    x_ptr,
    w_ptr,
    b_ptr,
    h_ptr,
    derivative_ptr,
    parts_ptr,
    counters_ptr,
    count_ptr,
    n_tokens,
    E: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """h, and act'(u) where it is wanted, of u = x w^T + b."""
    HALF: tl.constexpr = BLOCK_N // 2
    n_rows = padded_extent(tl.load(count_ptr))
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
            for half in tl.static_range(2):
                u = combine(right if half else left, parts_ptr, cut_tile, n_parts, half, BLOCK_M, HALF)
                first = first_n + half * HALF
                n = first + tl.arange(0, HALF)
                u += tl.load(b_ptr + n, mask=n < n_rows, other=0.0)[None, :]
                h, derivative = _activate(u, ACTIVATION)
                store_tile(h_ptr, h, first_m, first, n_tokens, n_rows, COLUMNS, BLOCK_M, HALF)
                if derivative_ptr is not None:
                    store_tile(derivative_ptr, derivative, first_m, first, n_tokens, n_rows, COLUMNS, BLOCK_M, HALF)


@triton.jit(do_not_specialize=["n_tokens"])
def _masked_ffn_bwd_kernel_du(
    dy_ptr,
    w_ptr,
    derivative_ptr,
    du_ptr,
    blocks_ptr,
    parts_ptr,
    counters_ptr,
    count_ptr,
    n_tokens,
    E: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """du = (dy w^T) act'(u), the masks being in w, and its sums over blocks of BLOCK_M tokens."""
    HALF: tl.constexpr = BLOCK_N // 2
    n_rows = padded_extent(tl.load(count_ptr))
    across, k_steps = tl.cdiv(n_rows, BLOCK_N), tl.cdiv(E, BLOCK_K)
    n_tiles = tl.cdiv(n_tokens, BLOCK_M) * across
    whole, parts = split_last_round(n_tiles, k_steps)
    for piece in range(tl.program_id(0), whole + (n_tiles - whole) * parts, tl.num_programs(0)):
        tile, part, n_parts, cut_tile, k_from, k_to = piece_of(piece, whole, parts, k_steps, BLOCK_K)
        first_m, first_n = tile // across * BLOCK_M, tile % across * BLOCK_N
        total = accumulate(
            dy_ptr, w_ptr, first_m, first_n, k_from, k_to, n_tokens, n_rows, E,
            E, 1, 1, E, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        left, right = halves(total, BLOCK_M, HALF)
        if announce(left, right, parts_ptr, counters_ptr, cut_tile, part, n_parts, BLOCK_M, HALF):
            for half in tl.static_range(2):
                dm = combine(right if half else left, parts_ptr, cut_tile, n_parts, half, BLOCK_M, HALF)
                first = first_n + half * HALF
                m, n = first_m + tl.arange(0, BLOCK_M), first + tl.arange(0, HALF)
                here = (m < n_tokens)[:, None] & (n < n_rows)[None, :]
                derivative = derivative_ptr + m[:, None].to(tl.int64) * COLUMNS + n[None, :]
                du = dm * tl.load(derivative, mask=here, other=0.0).to(tl.float32)
                store_tile(du_ptr, du, first_m, first, n_tokens, n_rows, COLUMNS, BLOCK_M, HALF)
                tl.store(blocks_ptr + first_m // BLOCK_M * COLUMNS + n, tl.sum(du, 0), mask=n < n_rows)


def forward(
    x: Tensor,
    w_up: Tensor,
    b_up: Tensor,
    w_down: Tensor,
    b_down: Tensor,
    z_int: Tensor | None,
    z_ffn: Tensor | None,
    z_hidden: Tensor | None,
    activation: str,
    for_backward: bool,
) -> tuple[Tensor, Tensor]:
    """As `reference.forward`; what is kept is laid out as `workspace.Workspace`."""
    x = x.contiguous()
    (n_tokens, n_hidden), n_int = x.shape, w_up.shape[0]
    kept = x.new_empty(workspace.triton_numel(x, n_int))
    saved = workspace.views(kept, n_tokens, n_int, n_hidden)
    biases = torch.empty(padded(n_int) + n_hidden, dtype=torch.float32, device=x.device)
    b_in, b_out = biases.split([padded(n_int), n_hidden])
    work = new_work(x, n_int, saved.integers)
    masks = folding.contiguous_masks(z_int, z_ffn, z_hidden)
    folded = Folded(saved.w_up, b_in, saved.w_down, b_out)
    folding.fold(w_up[None], b_up[None], w_down, b_down, masks, work, folded)
    with torch.cuda.device_of(x):
        _masked_ffn_fwd_kernel_up[(work.programs,)](
            x,
            saved.w_up,
            b_in,
            saved.h,
            saved.derivative if for_backward else None,
            work.parts,
            work.counters,
            work.n_live,
            n_tokens,
            E=n_hidden,
            COLUMNS=saved.h.shape[1],
            ACTIVATION=activation,
            PRECISION=precision_of(x),
            **work.tiles.constants(),
        )
    y = torch.empty_like(x)
    products.project_out(saved.h, saved.w_down, b_out, y, 1, work)
    return y, kept if for_backward else x.new_empty(0)


def _du(dy: Tensor, saved: workspace.Workspace, work: Work) -> tuple[Tensor, Tensor]:
    """du (T, C), and its sums over blocks of tokens (blocks, C)."""
    n_tokens, n_columns = saved.h.shape
    du = torch.empty_like(saved.h)
    n_blocks = triton.cdiv(n_tokens, work.tiles.m)
    blocks = torch.empty((n_blocks, n_columns), dtype=torch.float32, device=dy.device)
    with torch.cuda.device_of(dy):
        _masked_ffn_bwd_kernel_du[(work.programs,)](
            dy,
            saved.w_down,
            saved.derivative,
            du,
            blocks,
            work.parts,
            work.counters,
            work.n_live,
            n_tokens,
            E=dy.shape[1],
            COLUMNS=n_columns,
            PRECISION=precision_of(dy),
            **work.tiles.constants(),
        )
    return du, blocks


def backward(
    dy: Tensor,
    x: Tensor,
    w_up: Tensor,
    w_down: Tensor,
    b_down: Tensor,
    z_int: Tensor | None,
    z_ffn: Tensor | None,
    z_hidden: Tensor | None,
    activation: str,
    u: Tensor,
) -> tuple[Tensor, ...]:
    """As `reference.backward`, from this module's workspace."""
    dy, x = dy.contiguous(), x.contiguous()
    saved = workspace.views(u, x.shape[0], w_up.shape[0], x.shape[1])
    work = new_work(x, w_up.shape[0], saved.integers)
    masks = folding.contiguous_masks(z_int, z_ffn, z_hidden)
    du, db_up_blocks = _du(dy, saved, work)
    dx, dw_up = torch.empty_like(x), torch.empty_like(w_up, memory_format=torch.contiguous_format)
    products.project_out(du, saved.w_up, None, dx, 1, work)
    w_down = w_down.contiguous()
    dw_down = torch.empty_like(w_down)
    projection = gradients.weight_gradients(
        gradients.Product(du, x, dw_up[None]), gradients.Product(saved.h, dy, dw_down[None]), w_down, masks, work
    )
    to = sums.new_finished(w_up.new_empty(1, w_up.shape[0]), b_down, masks, with_units=True)
    added = sums.Sums(db_up_blocks, sums.column_blocks(dy), projection)
    sums.finish(added, b_down, masks, 1, work, to)
    masks_gradients = (x.new_empty(0) if dz is None else dz for dz in (to.dz_unit, to.dz_layer, to.dz_hidden))
    return dx, dw_up, to.db_in[0], dw_down, to.db_out, *masks_gradients
