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
    kept: Tensor  # 1 inside K, 0 outside
    all_kept: bool


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
    if residual is not None and is_dead(z_layer):
        mean, rstd = (x.new_empty(x.shape[0], dtype=acc) for _ in range(2))
        return residual.clone(memory_format=torch.contiguous_format), mean, rstd
    x = _dropped(x, dropout_p, dropout_state)
    parameters = _parameters(weight, bias, z_hidden, acc)
    if not parameters.all_kept:
        return _normalise(x, residual, parameters, eps)
    v = _sum(x, residual, acc)
    y, mean, rstd = torch.native_layer_norm(v, v.shape[1:], parameters.weight, parameters.bias, eps)
    return y.to(x.dtype), mean[:, 0], rstd[:, 0]


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
    normalise = _normalise_all_backward if parameters.all_kept else _normalise_backward
    dv, sum_dy_n, sum_dy = normalise(dy, dropped, residual, mean, rstd, parameters)
    dweight, dbias = (times(total, z_hidden, parameters.kept) for total in (sum_dy_n, sum_dy))
    dz_hidden = mask_gradient(weight * sum_dy_n + bias * sum_dy, z_hidden)
    dx = _dropped(dv, dropout_p, dropout_state)
    dresidual = x.new_empty(0) if residual is None else dv
    if dx is dv and residual is not None:
        dx = dv.clone()  # the outputs of an op share nothing
    return dx, dresidual, dweight.to(weight.dtype), dbias.to(bias.dtype), dz_hidden


def _normalise(x: Tensor, residual: Tensor | None, p: _Parameters, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and 1 / standard deviation over K, block by block."""
    y = x.new_empty(x.shape)
    mean, rstd = (x.new_empty(x.shape[0], dtype=p.weight.dtype) for _ in range(2))
    for rows in _blocks(x):
        v = _sum(x[rows], _rows(residual, rows), p.weight.dtype)
        centred = v.sub_(torch.mv(v, p.averaging, out=mean[rows])[:, None])
        torch.rsqrt(torch.mv(centred.square(), p.averaging).add_(eps), out=rstd[rows])
        torch.addcmul(p.bias, centred.mul_(rstd[rows, None]), p.weight, out=y[rows])
    return y, mean, rstd


def _normalise_backward(
    dy: Tensor, x: Tensor, residual: Tensor | None, mean: Tensor, rstd: Tensor, p: _Parameters
) -> tuple[Tensor, Tensor, Tensor]:
    """dv over K, and the sums over rows of dy * n and of dy, block by block."""
    acc = p.weight.dtype
    dv = x.new_empty(x.shape)
    sum_dy_n, sum_dy = (x.new_zeros(x.shape[1], dtype=acc) for _ in range(2))
    averaged_weight = p.weight * p.averaging
    for rows in _blocks(x):
        normalised = _sum(x[rows], _rows(residual, rows), acc).sub_(mean[rows, None]).mul_(rstd[rows, None])
        dout = dy[rows].to(acc)
        dout_n = dout * normalised
        g = (dout * p.weight).sub_(torch.mv(dout, averaged_weight)[:, None])
        g.addcmul_(normalised, torch.mv(dout_n, averaged_weight)[:, None], value=-1.0).mul_(rstd[rows, None])
        torch.mul(g, p.kept, out=dv[rows])
        ones = dout.new_ones(dout.shape[0])
        sum_dy_n.addmv_(dout_n.t(), ones)
        sum_dy.addmv_(dout.t(), ones)
    return dv, sum_dy_n, sum_dy


def _normalise_all_backward(
    dy: Tensor, x: Tensor, residual: Tensor | None, mean: Tensor, rstd: Tensor, p: _Parameters
) -> tuple[Tensor, Tensor, Tensor]:
    """The same where every dim is kept."""
    v = _sum(x, residual, p.weight.dtype)
    statistics, wanted = (mean[:, None], rstd[:, None]), [True, True, True]
    dv, sum_dy_n, sum_dy = torch.ops.aten.native_layer_norm_backward(
        dy.to(v.dtype), v, v.shape[1:], *statistics, p.weight, p.bias, wanted
    )
    return dv.to(x.dtype), sum_dy_n, sum_dy


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
    return _Parameters(weight, bias, kept / n_kept.clamp(min=1), kept, n_kept.item() == weight.numel())


def _blocks(x: Tensor) -> Iterator[slice]:
    n_rows = max(1, BLOCK_ELEMENTS // max(1, x.shape[1]))
    return (slice(start, start + n_rows) for start in range(0, x.shape[0], n_rows))


def _rows(residual: Tensor | None, rows: slice) -> Tensor | None:
    return None if residual is None else residual[rows]


def _sum(x: Tensor, residual: Tensor | None, acc: torch.dtype) -> Tensor:
    """x + residual as a new tensor in the dtype to accumulate in."""
    return x.to(acc, copy=True) if residual is None else x.to(acc) + residual
