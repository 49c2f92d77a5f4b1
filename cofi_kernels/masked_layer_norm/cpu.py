"""Launchers of the C++ kernels: fp32, other dtypes by `blocked`.

The sublayer's own mask is read on the host, which costs nothing here: where it is 0 the residual is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_threshold
from cofi_kernels.gathering import is_dead
from cofi_kernels.masked_layer_norm import blocked
from cofi_kernels.masking import mask_gradient, times
from cofi_kernels.native import address, load_native


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
    if x.dtype != torch.float32 or (residual is not None and is_dead(z_layer)):
        return blocked.forward(x, residual, weight, bias, z_hidden, z_layer, eps, dropout_p, dropout_state)
    x, y = x.contiguous(), x.new_empty(x.shape)
    mean, rstd = (x.new_empty(x.shape[0]) for _ in range(2))
    parameters = _parameters(residual, weight, bias, z_hidden, dropout_state)
    load_native().masked_layer_norm(
        x=x.data_ptr(),
        **_addresses(parameters),
        **_dropout(dropout_p, parameters["state"]),
        eps=eps,
        y=y.data_ptr(),
        mean=mean.data_ptr(),
        rstd=rstd.data_ptr(),
        **_sizes(x),
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
    if x.dtype != torch.float32 or (residual is not None and is_dead(z_layer)):
        return blocked.backward(dy, x, residual, weight, bias, z_hidden, z_layer, dropout_p, dropout_state, mean, rstd)
    dy, x = dy.contiguous(), x.contiguous()
    dx, sums = x.new_empty(x.shape), x.new_empty((2, x.shape[1]))
    dresidual = x.new_empty(0 if residual is None else x.shape)
    parameters = _parameters(residual, weight, bias, z_hidden, dropout_state)
    load_native().masked_layer_norm_backward(
        dy=dy.data_ptr(),
        x=x.data_ptr(),
        **_addresses(parameters),
        **_dropout(dropout_p, parameters["state"]),
        mean=mean.data_ptr(),
        rstd=rstd.data_ptr(),
        dx=dx.data_ptr(),
        dresidual=address(None if residual is None else dresidual),
        sums=sums.data_ptr(),
        **_sizes(x),
    )
    sum_dy_n, sum_dy = sums.unbind()
    dz_hidden = mask_gradient(weight * sum_dy_n + bias * sum_dy, z_hidden)
    if z_hidden is None:
        sum_dy_n, sum_dy = (total.clone() for total in (sum_dy_n, sum_dy))  # the outputs of an op share nothing
    return dx, dresidual, times(sum_dy_n, z_hidden), times(sum_dy, z_hidden), dz_hidden


Parameters = dict[str, Tensor | None]


def _parameters(
    residual: Tensor | None, weight: Tensor, bias: Tensor, z_hidden: Tensor | None, state: Tensor | None
) -> Parameters:
    given = {"residual": residual, "weight": weight, "bias": bias, "z_hidden": z_hidden, "state": state}
    return {name: None if t is None else t.contiguous() for name, t in given.items()}


def _addresses(parameters: Parameters) -> dict[str, int]:
    return {name: address(t) for name, t in parameters.items() if name != "state"}


def _dropout(p: float, state: Tensor | None) -> dict[str, Any]:
    return {
        "state": address(state if p > 0.0 else None),
        "threshold": keep_threshold(p),
        "scale": 1.0 / (1.0 - p),
    }


def _sizes(x: Tensor) -> dict[str, int]:
    return {"tokens": x.shape[0], "hidden": x.shape[1], "threads": torch.get_num_threads()}
