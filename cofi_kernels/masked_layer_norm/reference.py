"""Dropout, residual and LayerNorm over the kept hidden dims in plain PyTorch: the definition every backend reproduces.

    K = {i : z_hidden[i] != 0},  v = dropout(x) + residual
    y = z_hidden * ((v - mean_K v) / sqrt(var_K v + eps) * weight + bias)   inside K, 0 outside; var is biased
    y = residual                                                           where z_layer is given and is 0

The last line is the official code's rule that a sublayer which is wholly masked skips its LayerNorm too; it is decided
on the device. T packed tokens, E hidden. An absent mask is 1; an empty K gives zeros.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import counter_dropout
from cofi_kernels.masking import accumulation_dtype, mask_gradient, times


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
    """Returns y (T, E) and for the backward mean and 1 / standard deviation, both (T,) in fp32 or wider."""
    v = _sum(x, residual, dropout_p, dropout_state)
    kept, n_kept = _kept(weight, z_hidden)
    mean = torch.where(kept, v, 0.0).sum(1) / n_kept
    centred = torch.where(kept, v - mean[:, None], 0.0)
    rstd = torch.rsqrt(centred.square().sum(1) / n_kept + eps)
    y = torch.where(kept, centred * rstd[:, None] * weight + bias, 0.0)
    y = times(y, z_hidden).to(x.dtype)
    if z_layer is not None and residual is not None:
        y = torch.where(z_layer == 0, residual, y)
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
    """Returns dx, dresidual, dweight, dbias, dz_hidden; what is absent has a (0,) one. z_layer has no gradient.

    With g = dy * z_hidden * weight and the normalised n = (v - mean) * rstd:
        dv = rstd * (g - mean_K g - n * mean_K(g * n)) inside K, 0 outside
    """
    v = _sum(x, residual, dropout_p, dropout_state)
    kept, n_kept = _kept(weight, z_hidden)
    normalised = torch.where(kept, (v - mean[:, None]) * rstd[:, None], 0.0)
    dout = dy.to(v.dtype)
    g = times(dout * weight, z_hidden)
    mean_g, mean_gn = g.sum(1, True) / n_kept, (g * normalised).sum(1, True) / n_kept
    dv = torch.where(kept, rstd[:, None] * (g - mean_g - normalised * mean_gn), 0.0)
    sum_dy, sum_dy_n = dout.sum(0), (dout * normalised).sum(0)  # (E,): every parameter's gradient is made of these two
    dweight, dbias = times(sum_dy_n, z_hidden), times(sum_dy, z_hidden)
    dz_hidden = weight * sum_dy_n + bias * sum_dy

    live = None if z_layer is None else z_layer != 0
    dresidual = dv if live is None else torch.where(live, dv, dout)
    dv, dweight, dbias, dz_hidden = (_only_if(live, grad) for grad in (dv, dweight, dbias, dz_hidden))
    dx = _dropped(dv.to(x.dtype), dropout_p, dropout_state)
    dresidual = (
        dx.new_empty(0) if residual is None else dresidual.to(x.dtype, copy=True)
    )  # outputs of an op share nothing
    return dx, dresidual, dweight.to(weight.dtype), dbias.to(bias.dtype), mask_gradient(dz_hidden, z_hidden)


def _sum(x: Tensor, residual: Tensor | None, dropout_p: float, dropout_state: Tensor | None) -> Tensor:
    """dropout(x) + residual in fp32 or wider."""
    v = _dropped(x, dropout_p, dropout_state).to(accumulation_dtype(x.dtype))
    return v if residual is None else v + residual


def _dropped(x: Tensor, dropout_p: float, dropout_state: Tensor | None) -> Tensor:
    if dropout_p == 0.0 or dropout_state is None:
        return x
    return counter_dropout(x, dropout_p, dropout_state)


def _kept(weight: Tensor, z_hidden: Tensor | None) -> tuple[Tensor, Tensor]:
    """K as a bool (E,) and its size, at least 1."""
    kept = torch.ones_like(weight, dtype=torch.bool) if z_hidden is None else z_hidden != 0
    return kept, kept.sum().clamp(min=1)


def _only_if(live: Tensor | None, grad: Tensor) -> Tensor:
    return grad if live is None else torch.where(live, grad, 0.0)
