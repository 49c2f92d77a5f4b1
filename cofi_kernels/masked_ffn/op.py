"""Public op: argument checks, registration, gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.implementations import on_cpu, triton
from cofi_kernels.library import Implementation, define_op
from cofi_kernels.masked_ffn import reference, workspace
from cofi_kernels.masked_ffn.activations import get_activation
from cofi_kernels.masking import mask_gradient_like

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def masked_ffn(
    x: Tensor,
    w_up: Tensor,
    b_up: Tensor,
    w_down: Tensor,
    b_down: Tensor,
    *,
    z_int: Tensor | None = None,
    z_ffn: Tensor | None = None,
    z_hidden: Tensor | None = None,
    activation: str = "gelu",
) -> Tensor:
    """Feed-forward sublayer under masks: z_hidden * z_ffn * ((z_int * act(x W_up^T + b_up)) W_down + b_down).

    x: (T, E) packed tokens; fp32, bf16, fp16 or fp64
    w_up: (I, E), b_up: (I,), w_down: (I, E) (Hugging Face's transposed), b_down: (E,); I may be 0; all in x's dtype, or
        all in fp32: masters that are cast to x's dtype, while their gradients stay fp32, as under autocast
    z_int: (I,), z_ffn: 0-dim, z_hidden: (E,), in x's dtype or fp32; an absent mask is 1
    activation: a name in `cofi_kernels.masked_ffn.activations.ACTIVATIONS`
    returns (T, E), differentiable in every float argument; the gradient of a mask is 0 where the mask is 0.
    Raises ValueError or TypeError for a wrong shape, dtype, device or activation. CoFi, section 3 (z_int, z_FFN).
    """
    _check(x, w_up, b_up, w_down, b_down)
    get_activation(activation)
    n_hidden, n_int = x.shape[1], w_up.shape[0]
    checks.mask("z_int", z_int, (n_int,), x)
    checks.mask("z_ffn", z_ffn, (), x)
    checks.mask("z_hidden", z_hidden, (n_hidden,), x)
    inputs = (x, w_up, b_up, w_down, b_down, z_int, z_ffn, z_hidden)
    for_backward = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    return _forward(*inputs, activation, for_backward)[0]


def _check(x: Tensor, w_up: Tensor, b_up: Tensor, w_down: Tensor, b_down: Tensor) -> None:
    checks.shape_is("x", x, ("tokens", "hidden"))
    checks.dtype_in("x", x, _DTYPES)
    n_hidden = x.shape[1]
    checks.shape_is("w_up", w_up, ("intermediate", n_hidden))
    checks.shape_is("b_up", b_up, (w_up.shape[0],))
    checks.shape_is("w_down", w_down, (w_up.shape[0], n_hidden))
    checks.shape_is("b_down", b_down, (n_hidden,))
    checks.weights(x, w_up=w_up, b_up=b_up, w_down=w_down, b_down=b_down)


def _reference(x: Tensor, w_up: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """The reference, with its workspace made as long as the one that a faster backend of the device would keep."""
    y, u = reference.forward(x, w_up, *others)
    missing = _kept(x, w_up, *others) - u.numel()
    return y, u if missing == 0 else F.pad(u, (0, missing))


def _kept(x: Tensor, w_up: Tensor, *others: Any) -> int:
    """Elements of the workspace: none where no backward comes."""
    return workspace.numel(x, w_up.shape[0]) if others[-1] else 0


def _fake(x: Tensor, w_up: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(_kept(x, w_up, *others))


def _declines(x_or_dy: Tensor, *_: Any) -> str | None:
    """What the Triton kernels leave to the reference."""
    return "the kernels compute in fp32, x is torch.float64" if x_or_dy.dtype == torch.float64 else None


def _fake_backward(
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
    weights = (w_up.new_empty(shape) for shape in (w_up.shape, w_up.shape[:1], w_down.shape, b_down.shape))
    return x.new_empty(x.shape), *weights, *(mask_gradient_like(z, x) for z in (z_int, z_ffn, z_hidden))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w_up, _, w_down, b_down, z_int, z_ffn, z_hidden, ctx.activation, _ = inputs
    u = output[1]
    ctx.mark_non_differentiable(u)
    ctx.set_materialize_grads(False)  # a zero gradient for u would cost as much memory as u
    ctx.save_for_backward(x, w_up, w_down, b_down, z_int, z_ffn, z_hidden, u)


def _backward_formula(ctx: Any, dy: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if dy is None:  # autograd's zero, which set_materialize_grads leaves as it is
        return (None,) * 10
    x, w_up, w_down, b_down, z_int, z_ffn, z_hidden, u = ctx.saved_tensors
    grads = _backward(dy, x, w_up, w_down, b_down, z_int, z_ffn, z_hidden, ctx.activation, u)
    *weights, dz_int, dz_ffn, dz_hidden = grads
    masks = ((z_int, dz_int), (z_ffn, dz_ffn), (z_hidden, dz_hidden))
    return *weights, *(None if z is None else dz for z, dz in masks), None, None


def _faster(function: str) -> tuple[Implementation, ...]:
    return on_cpu(__package__, "gathered", function), triton(__package__, function, _declines, "fp64")


_backward = define_op(
    "masked_ffn_backward(Tensor dy, Tensor x, Tensor w_up, Tensor w_down, Tensor b_down, Tensor? z_int, Tensor? z_ffn, "
    "Tensor? z_hidden, str activation, Tensor u) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.backward,
    fake=_fake_backward,
    implementations=_faster("backward"),
)
_forward = define_op(
    "masked_ffn(Tensor x, Tensor w_up, Tensor b_up, Tensor w_down, Tensor b_down, Tensor? z_int, Tensor? z_ffn, "
    "Tensor? z_hidden, str activation, bool for_backward) -> (Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    implementations=_faster("forward"),
    backward=_backward_formula,
    setup_context=_setup_context,
)
