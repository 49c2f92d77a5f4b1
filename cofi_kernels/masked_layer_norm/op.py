"""Public op: argument checks, registration, gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.implementations import cpu, on_cpu, triton
from cofi_kernels.library import define_op
from cofi_kernels.masked_layer_norm import reference
from cofi_kernels.masking import accumulation_dtype, mask_gradient_like

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def masked_layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    z_hidden: Tensor | None = None,
    z_layer: Tensor | None = None,
    eps: float,
    dropout_p: float = 0.0,
    dropout_state: Tensor | None = None,
) -> Tensor:
    """z_hidden * LayerNorm over the kept hidden dims of (dropout(x) + residual); residual itself where z_layer is 0.

    x, residual: (T, E) packed tokens, residual may be None; fp32, bf16, fp16 or fp64
    weight, bias: (E,), in x's dtype or fp32
    z_hidden: (E,), in x's dtype or fp32: statistics are taken over the dims where it is not 0, the others give 0
    z_layer: 0-dim: where it is 0 the result is the residual, which must then be given; it gets no gradient
    eps: added to the (biased) variance, positive
    dropout_p, dropout_state: as `counter_dropout` takes them
    returns (T, E), differentiable in x, residual, weight, bias, z_hidden (0 where z_hidden is 0).
    Raises ValueError or TypeError for a wrong shape, dtype, device or range. CoFi's masked LayerNorm (z_hidn).
    """
    _check(x, residual, weight, bias, eps)
    checks.mask("z_hidden", z_hidden, (x.shape[1],), x)
    checks.mask("z_layer", z_layer, (), x)
    checks.dropout(dropout_p, dropout_state, x)
    if z_layer is not None and residual is None:
        raise ValueError("residual must be given where z_layer is, got None")
    return _forward(x, residual, weight, bias, z_hidden, z_layer, eps, dropout_p, dropout_state)[0]


def _check(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float) -> None:
    checks.shape_is("x", x, ("tokens", "hidden"))
    checks.dtype_in("x", x, _DTYPES)
    checks.optional_shape_is("residual", residual, tuple(x.shape))
    checks.shape_is("weight", weight, (x.shape[1],))
    checks.shape_is("bias", bias, (x.shape[1],))
    checks.like_x(x, residual=residual)
    checks.weights(x, weight=weight, bias=bias)
    if not eps > 0.0:
        raise ValueError(f"eps must be positive, got {eps}")


def _declines(x_or_dy: Tensor, *_: Any) -> str | None:
    """Why the GPU's kernels cannot take a call, if so."""
    return "its kernels compute in fp32, not in torch.float64" if x_or_dy.dtype == torch.float64 else None


def _fake(x: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    mean, rstd = (x.new_empty(x.shape[0], dtype=accumulation_dtype(x.dtype)) for _ in range(2))
    return x.new_empty(x.shape), mean, rstd


def _fake_backward(
    dy: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, z_hidden: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    dresidual = x.new_empty(0 if residual is None else residual.shape)
    parameters = (weight.new_empty(weight.shape), bias.new_empty(bias.shape))
    return x.new_empty(x.shape), dresidual, *parameters, mask_gradient_like(z_hidden, x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, ctx.dropout_p, state = inputs
    statistics = output[1:]
    ctx.mark_non_differentiable(*statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, state, *statistics)


def _backward_formula(ctx: Any, dy: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if dy is None:  # autograd's zero, which set_materialize_grads leaves as it is
        return (None,) * 9
    *tensors, state, mean, rstd = ctx.saved_tensors
    residual, z_hidden = tensors[1], tensors[4]
    dx, dresidual, dweight, dbias, dz_hidden = _backward(dy, *tensors, ctx.dropout_p, state, mean, rstd)
    dresidual = None if residual is None else dresidual
    return dx, dresidual, dweight, dbias, None if z_hidden is None else dz_hidden, None, None, None, None


_backward = define_op(
    "masked_layer_norm_backward(Tensor dy, Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor? z_hidden, "
    "Tensor? z_layer, float dropout_p, Tensor? dropout_state, Tensor mean, Tensor rstd) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.backward,
    fake=_fake_backward,
    implementations=[
        cpu(__package__, "backward"),
        on_cpu(__package__, "blocked", "backward"),
        triton(__package__, "backward", _declines, "fp64"),
    ],
)
_forward = define_op(
    "masked_layer_norm(Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor? z_hidden, Tensor? z_layer, "
    "float eps, float dropout_p, Tensor? dropout_state) -> (Tensor, Tensor, Tensor)",
    reference=reference.forward,
    fake=_fake,
    implementations=[
        cpu(__package__, "forward"),
        on_cpu(__package__, "blocked", "forward"),
        triton(__package__, "forward", _declines, "fp64"),
    ],
    backward=_backward_formula,
    setup_context=_setup_context,
)
