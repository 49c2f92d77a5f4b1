"""Masked LayerNorm on the CPU, some rows at a time: every pass but the first finds its rows in the core's cache.

With a dropped dim, sums over the kept ones are products with a vector that is 0 elsewhere: no dim is gathered, none is
zeroed on the way. Without, PyTorch's own LayerNorm does it, with z_hidden folded into weight and bias. The sublayer's
own mask is read on the host, which costs nothing here: where it is 0 the residual is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.gathering import is_dead
from cofi_kernels.masking import accumulation_dtype, mask_gradient, times

BLOCK_ELEMENTS = 1 << 17  # 512 KiB of fp32; measured at E = 768 from 2^14 to 2^18, where it is fastest by a little


class _Parameters(NamedTuple):
    """weight and bias times z_hidden, and what averages over K: 1 / |K| inside it, 0 outside. All (E,)."""

    weight: Tensor
    bias: Tensor
    averaging: Tensor
    kept: Tensor | None  # 1 inside K, 0 outside; None where all dims are kept


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
    """As `reference.forward`."""
    acc = accumulation_dtype(x.dtype)
    y = x.new_empty(x.shape)
    mean, rstd = (x.new_empty(x.shape[0], dtype=acc) for _ in range(2))
    if residual is not None and is_dead(z_layer):
        return y.copy_(residual), mean, rstd
    x = _dropped(x, dropout_p, dropout_state)
    parameters = _parameters(weight, bias, z_hidden, acc)
    for rows in _blocks(x):
        v = _sum(x, residual, rows, acc)
        y[rows], mean[rows], rstd[rows] = _normalise(v, parameters, eps)
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
    if residual is not None and is_dead(z_layer):
        return _identity_gradients(dy, x, weight, bias, z_hidden)
    acc = accumulation_dtype(x.dtype)
    dropped = _dropped(x, dropout_p, dropout_state)
    parameters = _parameters(weight, bias, z_hidden, acc)
    dv = x.new_empty(x.shape)
    sum_dy, sum_dy_n = (x.new_zeros(x.shape[1], dtype=acc) for _ in range(2))
    for rows in _blocks(x):
        v = _sum(dropped, residual, rows, acc)
        dv[rows], part_n, part = _normalise_backward(dy[rows].to(acc), v, mean[rows], rstd[rows], parameters)
        sum_dy_n += part_n
        sum_dy += part
    dweight, dbias = (times(total, z_hidden, parameters.kept) for total in (sum_dy_n, sum_dy))
    dz_hidden = mask_gradient(weight * sum_dy_n + bias * sum_dy, z_hidden)
    dx = _dropped(dv, dropout_p, dropout_state)
    dresidual = x.new_empty(0) if residual is None else dv
    if dx is dv and residual is not None:
        dx = dv.clone()  # the outputs of an op share nothing
    return dx, dresidual, dweight.to(weight.dtype), dbias.to(bias.dtype), dz_hidden


def _normalise(v: Tensor, p: _Parameters, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """One block: y, mean and 1 / standard deviation. May use v's memory."""
    if p.kept is None:
        y, mean, rstd = torch.native_layer_norm(v, v.shape[1:], p.weight, p.bias, eps)
        return y, mean[:, 0], rstd[:, 0]
    mean = torch.mv(v, p.averaging)
    centred = v.sub_(mean[:, None])
    rstd = torch.mv(centred.square(), p.averaging).add_(eps).rsqrt_()
    return torch.addcmul(p.bias, centred.mul_(rstd[:, None]), p.weight), mean, rstd


def _normalise_backward(
    dy: Tensor, v: Tensor, mean: Tensor, rstd: Tensor, p: _Parameters
) -> tuple[Tensor, Tensor, Tensor]:
    """One block: dv, and the sums over its rows of dy * n and of dy. May use v's memory."""
    if p.kept is None:
        wanted = [True, True, True]
        statistics = (mean[:, None], rstd[:, None])
        return torch.ops.aten.native_layer_norm_backward(dy, v, v.shape[1:], *statistics, p.weight, p.bias, wanted)
    normalised = v.sub_(mean[:, None]).mul_(rstd[:, None])
    dy_n = dy * normalised
    averaged_weight = p.weight * p.averaging
    dv = (dy * p.weight).sub_(torch.mv(dy, averaged_weight)[:, None])
    dv.addcmul_(normalised, torch.mv(dy_n, averaged_weight)[:, None], value=-1.0)
    ones = dy.new_ones(dy.shape[0])
    return dv.mul_(rstd[:, None]).mul_(p.kept), torch.mv(dy_n.t(), ones), torch.mv(dy.t(), ones)


def _identity_gradients(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, z_hidden: Tensor | None
) -> tuple[Tensor, ...]:
    dz_hidden = x.new_empty(0) if z_hidden is None else torch.zeros_like(z_hidden)
    zeros = (t.new_zeros(t.shape) for t in (weight, bias))
    return x.new_zeros(x.shape), dy.clone(memory_format=torch.contiguous_format), *zeros, dz_hidden


def _dropped(x: Tensor, dropout_p: float, dropout_state: Tensor | None) -> Tensor:
    if dropout_p == 0.0 or dropout_state is None:
        return x
    return torch.ops.cofi_kernels.counter_dropout(x, dropout_p, dropout_state)


def _parameters(weight: Tensor, bias: Tensor, z_hidden: Tensor | None, acc: torch.dtype) -> _Parameters:
    kept = torch.ones_like(weight, dtype=acc) if z_hidden is None else (z_hidden != 0).to(acc)
    n_kept = kept.sum()
    weight, bias = (times(t.to(acc), z_hidden) for t in (weight, bias))
    all_kept = n_kept.item() == weight.numel()
    return _Parameters(weight, bias, kept / n_kept.clamp(min=1), None if all_kept else kept)


def _blocks(x: Tensor) -> Iterator[slice]:
    n_rows = max(1, BLOCK_ELEMENTS // max(1, x.shape[1]))
    return (slice(start, start + n_rows) for start in range(0, x.shape[0], n_rows))


def _sum(x: Tensor, residual: Tensor | None, rows: slice, acc: torch.dtype) -> Tensor:
    """A new tensor: these rows of x + residual in the dtype to accumulate in."""
    if residual is None:
        return x[rows].to(acc, copy=True)
    return x[rows].to(acc) + residual[rows]
