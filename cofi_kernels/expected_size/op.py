"""Public op: argument checks, registration, gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks, implementations
from cofi_kernels.expected_size import reference
from cofi_kernels.library import define_op

_DTYPES = (torch.float32, torch.float64)
_KINDS = ("p_head", "p_int", "p_mha", "p_ffn", "p_hidden")


def expected_size(
    p_head: Tensor | None,
    p_int: Tensor | None,
    p_mha: Tensor | None = None,
    p_ffn: Tensor | None = None,
    p_hidden: Tensor | None = None,
    *,
    head_cost: float,
    int_cost: float,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> Tensor:
    """Parameters expected to remain, from the probabilities that each unit is kept (masks taken as independent).

    p_head: (L, H), p_int: (L, I), p_mha: (L,), p_ffn: (L,), p_hidden: (E,), fp32 or fp64; None is a kind never pruned
    head_cost, int_cost: parameters of a head and of an intermediate dim; n_hidden, n_layers, n_heads, n_int: E, L, H, I
    returns a 0-dim tensor, differentiable in every probability (fp32 on the CPU where all are None).
    Raises ValueError or TypeError for a wrong shape, dtype, device or count. CoFi, section 3 (the constraint's size).
    """
    probabilities = (p_head, p_int, p_mha, p_ffn, p_hidden)
    shapes = ((n_layers, n_heads), (n_layers, n_int), (n_layers,), (n_layers,), (n_hidden,))
    for name, size in (("n_hidden", n_hidden), ("n_layers", n_layers)):
        if size < 1:
            raise ValueError(f"{name} must be positive, got {size}")
    _check(probabilities, shapes)
    if all(p is None for p in probabilities):
        return torch.tensor(float(n_layers * (n_heads * head_cost + n_int * int_cost)))
    costs = (float(head_cost), float(int_cost))
    return _forward(*probabilities, *costs, n_hidden, n_layers, n_heads, n_int)


def _check(probabilities: tuple[Tensor | None, ...], shapes: tuple[tuple[int, ...], ...]) -> None:
    given = [(name, p, shape) for name, p, shape in zip(_KINDS, probabilities, shapes, strict=True) if p is not None]
    for name, p, shape in given:
        first_name, first, _ = given[0]
        checks.shape_is(name, p, shape)
        checks.dtype_in(name, p, _DTYPES)
        checks.same_device(first_name, first, **{name: p})
        if p.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {p.dtype}")


def _fake(*args: Any) -> Tensor:
    return next(p for p in args[:5] if p is not None).new_empty(())


def _fake_backward(dsize: Tensor, *args: Any) -> tuple[Tensor, ...]:
    return tuple(dsize.new_empty(0) if p is None else p.new_empty(p.shape) for p in args[:5])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.sizes = inputs[5:]


def _backward_formula(ctx: Any, dsize: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    grads = _backward(dsize, *saved, *ctx.sizes)
    return *(None if p is None else dp for p, dp in zip(saved, grads, strict=True)), *[None] * len(ctx.sizes)


_ARGUMENTS = (
    "Tensor? p_head, Tensor? p_int, Tensor? p_mha, Tensor? p_ffn, Tensor? p_hidden, "
    "float head_cost, float int_cost, int n_hidden, int n_layers, int n_heads, int n_int"
)
_backward = define_op(
    f"expected_size_backward(Tensor dsize, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.backward,
    fake=_fake_backward,
    implementations=[implementations.triton(__package__, "backward")],
)
_forward = define_op(
    f"expected_size({_ARGUMENTS}) -> Tensor",
    reference=reference.forward,
    fake=_fake,
    implementations=[implementations.triton(__package__, "forward")],
    backward=_backward_formula,
    setup_context=_setup_context,
)
