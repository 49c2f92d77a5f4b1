"""Masked feed-forward sublayer in plain PyTorch: the definition every backend reproduces.

    u = x W_up^T + b_up,  h = act(u)
    y = z_hidden * z_ffn * ((z_int * h) W_down + b_down)                              method of CoFi, section 3

T packed tokens, E hidden, I intermediate. W_down is unit-major, (I, E): Hugging Face's transposed.
An absent mask is 1. Weights may be fp32 beside x of lower precision: they are cast to x's dtype, as under autocast, and
their gradients are cast back.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cofi_kernels.masked_ffn.activations import get_activation
from cofi_kernels.masking import accumulation_dtype, mask_gradient, times


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
    """Returns y (T, E) and the pre-activations u for the backward, flat (T * I,), or (0,) where none comes."""
    u = F.linear(x, w_up.to(x.dtype), b_up.to(x.dtype))
    h = get_activation(activation).function(u)
    y = times(times(h, z_int) @ w_down.to(x.dtype) + b_down.to(x.dtype), z_ffn, z_hidden)
    return y, u.flatten() if for_backward else u.new_empty(0)


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
    """Returns dx, dw_up, db_up, dw_down, db_down, dz_int, dz_ffn, dz_hidden; a mask that is absent has a (0,) one."""
    act = get_activation(activation)
    acc = accumulation_dtype(x.dtype)
    u = u[: x.shape[0] * w_up.shape[0]].view(x.shape[0], w_up.shape[0])
    h = act.function(u)

    # The down-projection. `unscaled` is dw_down without the two output masks: its product with w_down sums to the
    # gradients of both masks, so y need not be kept.
    unscaled = times(h, z_int).t() @ dy
    dw_down = times(unscaled, z_ffn, z_hidden)
    db_down = times(dy.sum(0), z_ffn, z_hidden)
    dy_y = (w_down.to(acc) * unscaled).sum(0) + b_down.to(acc) * dy.sum(0, dtype=acc)  # sum_t dy * (y without masks)
    dz_hidden = mask_gradient(times(dy_y, z_ffn), z_hidden)
    dz_ffn = mask_gradient(times(dy_y, z_hidden).sum(), z_ffn)

    dmasked = times(dy, z_ffn, z_hidden) @ w_down.to(x.dtype).t()  # (T, I), gradient of z_int * h
    dz_int = mask_gradient((dmasked.to(acc) * h).sum(0), z_int)
    du = times(dmasked, z_int) * act.derivative(u)
    weights = (grad.to(w_up.dtype) for grad in (du.t() @ x, du.sum(0), dw_down, db_down))
    return du @ w_up.to(x.dtype), *weights, dz_int, dz_ffn, dz_hidden
