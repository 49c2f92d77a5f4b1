"""Masked LayerNorm in Triton: one pass over memory each way, and a small second one for the sums over tokens.

A program holds ROWS tokens whole, in registers, and walks over the tokens with a fixed stride. Its sums over tokens
go to a row of its own, and a second kernel adds the rows in their order: the same result at every run.
T tokens, E hidden, BLOCK_E the power of two that holds E. A pointer that is None is an argument that is absent.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_threshold
from cofi_kernels.counter_rng.triton_kernels import keep_rows
from cofi_kernels.grids import multiprocessors
from cofi_kernels.masking import mask_gradient_like

_WARP_COLUMNS = 256  # hidden dims a warp takes: 16 bytes of bf16 a lane
_MAX_WARPS = 16
_ROWS = 2  # tokens a program holds: 16 numbers a thread, of each tensor
_FORWARD_WARPS = 32  # in flight on a multiprocessor
_BACKWARD_WARPS = 16  # fewer: every program leaves a row of sums, here 528 of 6 KB on an H200 against 31 MB of tokens
_SUM_ROWS, _SUM_COLUMNS = 128, 32  # of the partial sums looked at together
MAX_HIDDEN = 16384  # what the registers of the largest program hold


@triton.jit
def _parameters(weight_ptr, bias_ptr, z_hidden_ptr, column, E: tl.constexpr):
    """weight and bias times z_hidden, fp32; which columns are kept; their number, at least 1."""
    kept = column < E
    weight = tl.load(weight_ptr + column, mask=kept, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + column, mask=kept, other=0.0).to(tl.float32)
    if z_hidden_ptr is not None:
        z = tl.load(z_hidden_ptr + column, mask=kept, other=0.0).to(tl.float32)
        kept = z != 0.0
        weight, bias = weight * z, bias * z
    n_kept = tl.maximum(tl.sum(kept.to(tl.int32)), 1).to(tl.float32)
    return weight, bias, kept, n_kept


@triton.jit
def _tokens(block, n_tokens, ROWS: tl.constexpr, BLOCK_E: tl.constexpr, E: tl.constexpr):
    """Tokens of a block (ROWS,), their elements (ROWS, BLOCK_E) and which of these there are."""
    token = (block * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = tl.arange(0, BLOCK_E)
    inside = (token < n_tokens)[:, None] & (column < E)[None, :]
    return token, token[:, None] * E + column[None, :], inside


@triton.jit
def _residual_sum(
    x_ptr, residual_ptr, state_ptr, token, index, inside, threshold, scale, E: tl.constexpr, BLOCK_E: tl.constexpr
):
    """dropout(x) + residual, fp32, and which elements of x dropout kept."""
    v = tl.load(x_ptr + index, mask=inside, other=0.0).to(tl.float32)
    keep = inside
    if state_ptr is not None:
        keep = keep_rows(state_ptr, token * E, threshold, BLOCK_E, E % 4 == 0)
        v = tl.where(keep, v * scale, 0.0)
    if residual_ptr is not None:
        v += tl.load(residual_ptr + index, mask=inside, other=0.0).to(tl.float32)
    return v, keep


@triton.jit(do_not_specialize=["n_tokens", "threshold"])
def _masked_layer_norm_fwd_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    z_hidden_ptr,
    z_layer_ptr,
    state_ptr,
    y_ptr,
    mean_ptr,
    rstd_ptr,
    n_tokens,
    eps,
    threshold,
    scale,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
):
    n_blocks = tl.cdiv(n_tokens, ROWS)
    if z_layer_ptr is not None:  # noqa: SIM102 Triton would compile both sides of an `and`
        if tl.load(z_layer_ptr) == 0.0:
            for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
                _, index, inside = _tokens(block, n_tokens, ROWS, BLOCK_E, E)
                tl.store(y_ptr + index, tl.load(residual_ptr + index, mask=inside, other=0.0), mask=inside)
            return
    weight, bias, kept, n_kept = _parameters(weight_ptr, bias_ptr, z_hidden_ptr, tl.arange(0, BLOCK_E), E)
    for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
        token, index, inside = _tokens(block, n_tokens, ROWS, BLOCK_E, E)
        v, _ = _residual_sum(x_ptr, residual_ptr, state_ptr, token, index, inside, threshold, scale, E, BLOCK_E)
        mean = tl.sum(tl.where(kept[None, :], v, 0.0), 1) / n_kept
        centred = tl.where(kept[None, :], v - mean[:, None], 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / n_kept + eps)
        y = tl.where(kept[None, :], centred * rstd[:, None] * weight[None, :] + bias[None, :], 0.0)
        tl.store(y_ptr + index, y.to(y_ptr.dtype.element_ty), mask=inside)
        tl.store(mean_ptr + token, mean, mask=token < n_tokens)
        tl.store(rstd_ptr + token, rstd, mask=token < n_tokens)


@triton.jit(do_not_specialize=["n_tokens", "threshold"])
def _masked_layer_norm_bwd_kernel(
    dy_ptr,
    x_ptr,
    residual_ptr,
    weight_ptr,
    bias_ptr,
    z_hidden_ptr,
    z_layer_ptr,
    state_ptr,
    mean_ptr,
    rstd_ptr,
    dx_ptr,
    dresidual_ptr,
    sums_ptr,
    n_tokens,
    threshold,
    scale,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
):
    """sums (programs, 2, E) fp32: each program's sums over its tokens of dy * n and of dy."""
    n_blocks = tl.cdiv(n_tokens, ROWS)
    if z_layer_ptr is not None:  # noqa: SIM102 Triton would compile both sides of an `and`
        if tl.load(z_layer_ptr) == 0.0:
            for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
                _, index, inside = _tokens(block, n_tokens, ROWS, BLOCK_E, E)
                tl.store(dresidual_ptr + index, tl.load(dy_ptr + index, mask=inside, other=0.0), mask=inside)
                tl.store(dx_ptr + index, tl.zeros((ROWS, BLOCK_E), dx_ptr.dtype.element_ty), mask=inside)
            return
    column = tl.arange(0, BLOCK_E)
    weight, _, kept, n_kept = _parameters(weight_ptr, bias_ptr, z_hidden_ptr, column, E)
    sum_dy_n, sum_dy = tl.zeros((BLOCK_E,), tl.float32), tl.zeros((BLOCK_E,), tl.float32)
    for block in range(tl.program_id(0), n_blocks, tl.num_programs(0)):
        token, index, inside = _tokens(block, n_tokens, ROWS, BLOCK_E, E)
        dy = tl.load(dy_ptr + index, mask=inside, other=0.0).to(tl.float32)
        v, keep = _residual_sum(x_ptr, residual_ptr, state_ptr, token, index, inside, threshold, scale, E, BLOCK_E)
        mean = tl.load(mean_ptr + token, mask=token < n_tokens, other=0.0)
        rstd = tl.load(rstd_ptr + token, mask=token < n_tokens, other=0.0)
        normalised = tl.where(kept[None, :], (v - mean[:, None]) * rstd[:, None], 0.0)
        dy_n = dy * normalised
        sum_dy_n += tl.sum(dy_n, 0)
        sum_dy += tl.sum(dy, 0)
        mean_g, mean_gn = tl.sum(dy * weight[None, :], 1) / n_kept, tl.sum(dy_n * weight[None, :], 1) / n_kept
        dv = dy * weight[None, :] - mean_g[:, None] - normalised * mean_gn[:, None]
        dv = tl.where(kept[None, :], dv * rstd[:, None], 0.0)
        if residual_ptr is not None:
            tl.store(dresidual_ptr + index, dv.to(dresidual_ptr.dtype.element_ty), mask=inside)
        dx = tl.where(keep, dv * scale, 0.0)
        tl.store(dx_ptr + index, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    sums_ptr += tl.program_id(0) * 2 * E + column
    tl.store(sums_ptr, sum_dy_n, mask=column < E)
    tl.store(sums_ptr + E, sum_dy, mask=column < E)


@triton.jit(do_not_specialize=["n_sums"])
def _parameter_gradients_kernel(
    sums_ptr,
    weight_ptr,
    bias_ptr,
    z_hidden_ptr,
    z_layer_ptr,
    dweight_ptr,
    dbias_ptr,
    dz_hidden_ptr,
    n_sums,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Adds the rows of sums (n_sums, 2, E) for some columns, and makes the gradients of them."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    mask = column < E
    if z_layer_ptr is not None:
        n_sums = tl.where(tl.load(z_layer_ptr) == 0.0, 0, n_sums)  # a dead layer has written none
    sum_dy_n, sum_dy = tl.zeros((ROWS, COLUMNS), tl.float32), tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in range(0, n_sums, ROWS):
        row = first + tl.arange(0, ROWS)
        inside = (row < n_sums)[:, None] & mask[None, :]
        place = sums_ptr + row[:, None] * (2 * E) + column[None, :]
        sum_dy_n += tl.load(place, mask=inside, other=0.0)
        sum_dy += tl.load(place + E, mask=inside, other=0.0)
    dweight, dbias = tl.sum(sum_dy_n, 0), tl.sum(sum_dy, 0)
    if z_hidden_ptr is not None:
        z = tl.load(z_hidden_ptr + column, mask=mask, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + column, mask=mask, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + column, mask=mask, other=0.0).to(tl.float32)
        dz_hidden = tl.where(z != 0.0, weight * dweight + bias * dbias, 0.0)
        tl.store(dz_hidden_ptr + column, dz_hidden.to(dz_hidden_ptr.dtype.element_ty), mask=mask)
        dweight, dbias = dweight * z, dbias * z
    tl.store(dweight_ptr + column, dweight.to(dweight_ptr.dtype.element_ty), mask=mask)
    tl.store(dbias_ptr + column, dbias.to(dbias_ptr.dtype.element_ty), mask=mask)


def forward(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    z_hidden: Tensor | None,
    z_layer: Tensor | None,
    eps: float,
    dropout_p: float,
    dropout_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `reference.forward`; where the layer is dead mean and rstd are left unwritten."""
    x, residual = x.contiguous(), _contiguous(residual)
    y = torch.empty_like(x)
    mean, rstd = (x.new_empty(x.shape[0], dtype=torch.float32) for _ in range(2))
    if x.numel() > 0:
        block_e, warps = _shape(x)
        n_programs = _programs(x, _FORWARD_WARPS // warps)
        parameters = (weight.contiguous(), bias.contiguous(), _contiguous(z_hidden), z_layer)
        state, threshold, scale = _dropout(dropout_p, dropout_state)
        with torch.cuda.device_of(x):
            _masked_layer_norm_fwd_kernel[(n_programs,)](
                *(x, residual, *parameters, state, y, mean, rstd, x.shape[0], eps, threshold, scale),
                *(x.shape[1], block_e, _ROWS),
                num_warps=warps,
            )
    return y, mean, rstd


def backward(
    dy: Tensor,
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    z_hidden: Tensor | None,
    z_layer: Tensor | None,
    dropout_p: float,
    dropout_state: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, ...]:
    """As `reference.backward`."""
    dy, x, residual = dy.contiguous(), x.contiguous(), _contiguous(residual)
    weight, bias, z_hidden = weight.contiguous(), bias.contiguous(), _contiguous(z_hidden)
    dx, dresidual = torch.empty_like(x), x.new_empty(0 if residual is None else x.shape)
    dweight, dbias, dz_hidden = torch.empty_like(weight), torch.empty_like(bias), mask_gradient_like(z_hidden, x)
    if x.shape[1] == 0:
        return dx, dresidual, dweight, dbias, dz_hidden
    block_e, warps = _shape(x)
    n_programs = _programs(x, max(1, _BACKWARD_WARPS // warps))
    sums = x.new_empty((n_programs, 2, x.shape[1]), dtype=torch.float32)
    parameters = (weight, bias, z_hidden, z_layer)
    state, threshold, scale = _dropout(dropout_p, dropout_state)
    with torch.cuda.device_of(x):
        if n_programs > 0:
            _masked_layer_norm_bwd_kernel[(n_programs,)](
                *(dy, x, residual, *parameters, state, mean, rstd, dx, dresidual, sums, x.shape[0], threshold, scale),
                *(x.shape[1], block_e, _ROWS),
                num_warps=warps,
            )
        _parameter_gradients_kernel[(triton.cdiv(x.shape[1], _SUM_COLUMNS),)](
            *(sums, *parameters, dweight, dbias, dz_hidden, n_programs, x.shape[1], _SUM_ROWS, _SUM_COLUMNS),
            num_warps=8,
        )
    return dx, dresidual, dweight, dbias, dz_hidden


def _contiguous(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def _shape(x: Tensor) -> tuple[int, int]:
    """BLOCK_E and warps of a program for x (T, E)."""
    if x.shape[1] > MAX_HIDDEN:
        raise ValueError(f"x must have at most {MAX_HIDDEN} hidden dims on a GPU, got {x.shape[1]}")
    block_e = max(16, triton.next_power_of_2(x.shape[1]))
    return block_e, min(max(block_e // _WARP_COLUMNS, 1), _MAX_WARPS)


def _programs(x: Tensor, per_multiprocessor: int) -> int:
    return min(triton.cdiv(x.shape[0], _ROWS), multiprocessors(x.device) * per_multiprocessor)


def _dropout(p: float, state: Tensor | None) -> tuple[Tensor | None, int, float]:
    """The state, None where nothing is dropped, the threshold of keeping and the factor of what is kept."""
    if p == 0.0 or state is None:
        return None, 0, 1.0
    return state.contiguous(), keep_threshold(p), 1.0 / (1.0 - p)
