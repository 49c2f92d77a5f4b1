"""Public op: argument checks and registration. It is for inference: it has no gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.first_token_head import reference
from cofi_kernels.implementations import cpu, triton, unverified
from cofi_kernels.library import define_op

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def first_token_head(
    x: Tensor,
    bounds: Tensor,
    w_pooler: Tensor | None = None,
    b_pooler: Tensor | None = None,
    w_out: Tensor | None = None,
    b_out: Tensor | None = None,
    *,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """pooled = activation(W_pooler x[first] + b_pooler) and logits = W_out pooled + b_out, for inference.

    x: (T, E) packed states; fp32, bf16, fp16 or fp64, and so are all weights
    bounds: int32 (B + 1,), sequence b begins at token bounds[b]; one without tokens gets what begins there
    w_pooler (P, E), b_pooler (P,): None without a pooler; the logits are then made of x[first]
    w_out (C, P), b_out (C,): None without a classifier
    activation: of the pooler: "tanh", "gelu" or "relu"
    returns pooled (B, P) and logits (B, C), of width 0 where there are no weights, without a gradient.
    Raises ValueError or TypeError for a wrong shape, dtype, device or activation, IndexError for a sequence that begins
    at no token (on a CPU), and RuntimeError where a gradient is asked for.
    """
    checks.shape_is("x", x, ("tokens", "hidden"))
    checks.dtype_in("x", x, _DTYPES)
    checks.sequences(bounds, 0, x)
    if activation not in reference.ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(reference.ACTIVATIONS)}, got {activation!r}")
    _check_dense("pooler", w_pooler, b_pooler, x, x.shape[1])
    _check_dense("out", w_out, b_out, x, x.shape[1] if w_pooler is None else w_pooler.shape[0])
    return _forward(x, bounds, w_pooler, b_pooler, activation, w_out, b_out)


def _check_dense(name: str, weight: Tensor | None, bias: Tensor | None, x: Tensor, width: int) -> None:
    if (weight is None) != (bias is None):
        raise ValueError(f"w_{name} and b_{name} must be given together")
    if weight is not None and bias is not None:
        checks.shape_is(f"w_{name}", weight, ("outputs", width))
        checks.shape_is(f"b_{name}", bias, (weight.shape[0],))
        checks.like_x(x, **{f"w_{name}": weight, f"b_{name}": bias})


def _refuse_gradient(ctx: Any, *_: Any) -> None:
    raise RuntimeError("first_token_head has no gradient: call it under torch.inference_mode() or torch.no_grad()")


def _fake(
    x: Tensor, bounds: Tensor, w_pooler: Tensor | None, _b: Any, _a: Any, w_out: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    widths = [0 if w is None else w.shape[0] for w in (w_pooler, w_out)]
    return x.new_empty((bounds.shape[0] - 1, widths[0])), x.new_empty((bounds.shape[0] - 1, widths[1]))


_forward = define_op(
    "first_token_head(Tensor x, Tensor bounds, Tensor? w_pooler, Tensor? b_pooler, str activation, Tensor? w_out, "
    "Tensor? b_out) -> (Tensor, Tensor)",
    reference=reference.forward,
    implementations=[cpu(__package__, "forward"), unverified(triton(__package__, "forward"))],
    fake=_fake,
    backward=_refuse_gradient,
    setup_context=lambda ctx, inputs, output: None,
)
