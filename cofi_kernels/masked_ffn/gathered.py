"""Masked feed-forward on the CPU that computes live intermediate dims only.

The pre-activations kept for the backward fill a prefix, (T, n_live), of the (T * I,) workspace; the rest of it is
never touched, and memory that is never touched costs nothing. Forward and backward must run on the same backend.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.gathering import OutputProjection, is_dead, live_units, put_back, take, take_mask, zero_gradients
from cofi_kernels.masked_ffn.activations import get_activation
from cofi_kernels.masking import mask_gradient
from cofi_kernels.products import matmul


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
    """As `reference.forward`, with the workspace packed as described above."""
    n_tokens, n_int = x.shape[0], w_up.shape[0]
    workspace = x.new_empty(n_tokens * n_int)
    kept = workspace if for_backward else x.new_empty(0)
    if is_dead(z_ffn):
        return torch.zeros_like(x, memory_format=torch.contiguous_format), kept
    live = live_units(z_int, n_tokens)
    w_live, b_live, down_live = (take(t, live).to(x.dtype) for t in (w_up, b_up, w_down))
    u = _prefix(workspace, n_tokens, w_live.shape[0])
    matmul(x, w_live.t(), b_live, out=u)
    projection = OutputProjection(down_live, b_down.to(x.dtype), take_mask(z_int, live), z_ffn, z_hidden)
    return projection.forward(get_activation(activation).function(u)), kept


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
    n_tokens, n_int = x.shape[0], w_up.shape[0]
    if is_dead(z_ffn):
        shapes = (w_up.shape, (n_int,), w_down.shape, b_down.shape)
        dx = torch.zeros_like(x, memory_format=torch.contiguous_format)
        return dx, *zero_gradients(shapes, (z_int, z_ffn, z_hidden), w_up)
    act = get_activation(activation)
    live = live_units(z_int, n_tokens)
    w_live, down_live = (take(w, live).to(x.dtype) for w in (w_up, w_down))
    z_live = take_mask(z_int, live)
    u = _prefix(u, n_tokens, w_live.shape[0])
    projection = OutputProjection(down_live, b_down.to(x.dtype), z_live, z_ffn, z_hidden)
    grads = projection.gradients(dy, act.function(u))
    du = act.gradient(projection.input_gradient(dy), u)
    dz_int = mask_gradient(grads.dz_unit, z_live)
    dtype = w_up.dtype
    return (
        matmul(du, w_live),
        put_back(matmul(du.t(), x).to(dtype), live, n_int),
        put_back(du.sum(0).to(dtype), live, n_int),
        put_back(grads.dweight.to(dtype), live, n_int),
        grads.dbias.to(dtype),
        dz_int if z_int is None else put_back(dz_int, live, n_int),
        grads.dz_layer,
        grads.dz_hidden,
    )


def _prefix(workspace: Tensor, n_tokens: int, n_live: int) -> Tensor:
    return workspace[: n_tokens * n_live].view(n_tokens, n_live)
