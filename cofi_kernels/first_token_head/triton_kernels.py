# mypy: disallow-untyped-defs=False, disable-error-code="assignment"
"""Pooler and classifier in Triton: one launch each, first tokens read where they lie. bf16 and fp16.

B sequences, E hidden, P outputs of the pooler, C labels. Widths are known when the kernels are compiled: rows of 764
dims are then read 8 bytes at a time, otherwise 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.dependent import wait_for_inputs
from cofi_kernels.first_token_head import reference
from cofi_kernels.launching import launch_options

_SQRT_HALF = tl.constexpr(0.5**0.5)
_LABEL_WARPS = 4


class Tile(NamedTuple):
    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# few sequences: columns spread over many programs, each reads 49 KB of W_pooler at E = 764; many: fuller tiles
FEW, MANY = Tile(16, 32, 64, 4, 4), Tile(64, 64, 64, 4, 4)
_MANY_SEQUENCES = 128


@triton.jit
def _tanh(u):
    """By exp; near 0, where that would cancel, the odd powers: what u^7 would add is 2e-9."""
    square = u * u
    near = u * (1.0 + square * (-1.0 / 3.0 + square * (2.0 / 15.0)))
    far = 1.0 - 2.0 / (tl.exp(2.0 * u) + 1.0)
    return tl.where(square < 0.0025, near, far)


@triton.jit
def _activate(u, ACTIVATION: tl.constexpr):
    if ACTIVATION == "tanh":
        return _tanh(u)
    if ACTIVATION == "gelu":
        return 0.5 * u * (1.0 + tl.erf(u * _SQRT_HALF))
    return tl.where(u < 0.0, 0.0, u)  # a maximum would lose a NaN


@triton.jit(do_not_specialize=["n_sequences", "n_tokens"])
def pooler_kernel(
    x_ptr,
    bounds_ptr,
    w_ptr,
    b_ptr,
    out_ptr,
    n_sequences,
    n_tokens,
    hidden: tl.constexpr,
    n_columns,
    ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Program (i, j): block i of sequences, block j of columns of activation(x[bounds] @ w^T + b)."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.load(bounds_ptr + row, mask=row < n_sequences, other=-1).to(tl.int64)
    has_token = ((first >= 0) & (first < n_tokens))[:, None]
    k = tl.arange(0, BLOCK_K)
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, hidden, BLOCK_K):
        inside = start + k < hidden
        x = tl.load(x_ptr + first[:, None] * hidden + start + k[None, :], mask=has_token & inside[None, :], other=0.0)
        at = w_ptr + column[:, None] * hidden + start + k[None, :]
        w = tl.load(at, mask=(column < n_columns)[:, None] & inside[None, :], other=0.0)
        y = tl.dot(x, tl.trans(w), y)
    y += tl.load(b_ptr + column, mask=column < n_columns, other=0.0).to(tl.float32)[None, :]
    y = _activate(y, ACTIVATION).to(out_ptr.dtype.element_ty)
    place = out_ptr + row.to(tl.int64)[:, None] * n_columns + column[None, :]
    tl.store(place, y, mask=(row < n_sequences)[:, None] & (column < n_columns)[None, :])


@triton.jit(do_not_specialize=["n_tokens"])
def label_kernel(
    x_ptr,
    bounds_ptr,
    w_ptr,
    b_ptr,
    out_ptr,
    n_tokens,
    depth: tl.constexpr,
    n_labels,
    BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Program (b, c): label c of sequence b, whose features are row b of x, or row bounds[b] where that is given."""
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    label = tl.program_id(1)
    source = row
    if bounds_ptr is not None:
        source = tl.load(bounds_ptr + row).to(tl.int64)
    k = tl.arange(0, BLOCK)
    inside = (k < depth) & (source >= 0) & (source < n_tokens)
    x = tl.load(x_ptr + source * depth + k, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(w_ptr + label * depth + k, mask=k < depth, other=0.0).to(tl.float32)
    y = tl.sum(x * w, 0) + tl.load(b_ptr + label).to(tl.float32)
    tl.store(out_ptr + row * n_labels + label, y.to(out_ptr.dtype.element_ty))


def forward(
    x: Tensor,
    bounds: Tensor,
    w_pooler: Tensor | None,
    b_pooler: Tensor | None,
    activation: str,
    w_out: Tensor | None,
    b_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As `reference.forward`; a sequence that begins at no token has features of 0."""
    if x.dtype not in (torch.bfloat16, torch.float16):
        return reference.forward(x, bounds, w_pooler, b_pooler, activation, w_out, b_out)
    return launch(x, bounds, w_pooler, b_pooler, activation, w_out, b_out)


def launch(
    x: Tensor,
    bounds: Tensor,
    w_pooler: Tensor | None,
    b_pooler: Tensor | None,
    activation: str,
    w_out: Tensor | None,
    b_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`forward` in any dtype that Triton multiplies."""
    n_sequences = bounds.shape[0] - 1
    x, bounds = x.contiguous(), bounds.contiguous()
    pooled = x.new_empty((n_sequences, 0 if w_pooler is None else w_pooler.shape[0]))
    logits = x.new_empty((n_sequences, 0 if w_out is None else w_out.shape[0]))
    with torch.cuda.device_of(x):
        if w_pooler is not None and b_pooler is not None and pooled.numel():
            _pool(x, bounds, w_pooler.contiguous(), b_pooler.contiguous(), activation, pooled)
        if w_out is not None and b_out is not None and logits.numel():
            features, at = (x, bounds) if w_pooler is None else (pooled, None)
            weights = (w_out.contiguous(), b_out.contiguous())
            sizes = (features.shape[0], features.shape[1], w_out.shape[0], triton.next_power_of_2(features.shape[1]))
            label_kernel[tuple(logits.shape)](
                *(features, at, *weights, logits, *sizes), num_warps=_LABEL_WARPS, **launch_options(x.device)
            )
    return pooled, logits


def _pool(x: Tensor, bounds: Tensor, weight: Tensor, bias: Tensor, activation: str, out: Tensor) -> None:
    n_sequences, n_columns = out.shape
    tile = FEW if n_sequences < _MANY_SEQUENCES else MANY
    pooler_kernel[(triton.cdiv(n_sequences, tile.rows), triton.cdiv(n_columns, tile.columns))](
        *(x, bounds, weight, bias, out, n_sequences, x.shape[0], x.shape[1], n_columns, activation),
        *(tile.rows, tile.columns, tile.depth),
        num_warps=tile.warps,
        num_stages=tile.stages,
        **launch_options(x.device),
    )
