"""Public ops: argument checks, registration, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks, implementations
from cofi_kernels.counter_rng import reference
from cofi_kernels.library import Implementation, define_op

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def counter_uniform(state: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniform noise in (0, 1) as a pure function of the state and the element's row-major index.

    state: int64 (2,) [seed, offset], on the device the result is wanted on
    returns fp32 of `shape`; the same bits on every device. Raises TypeError or ValueError for a bad state or shape.
    """
    checks.counter_state("state", state)
    if any(size < 0 for size in shape):
        raise ValueError(f"shape must have no negative size, got {tuple(shape)}")
    return _uniform(state, list(shape))


def counter_dropout(x: Tensor, p: float, state: Tensor) -> Tensor:
    """Dropout whose mask is a pure function of the state: nothing of x's size is kept for the backward.

    x:     any shape, fp32, bf16, fp16 or fp64
    p:     probability of dropping, in [0, 1)
    state: int64 (2,) [seed, offset] on x's device; the same state gives the same mask
    returns x / (1 - p) where u >= p, else 0, contiguous; differentiable in x
    """
    checks.dtype_in("x", x, _DTYPES)
    checks.in_range("p", p, 0.0, 1.0)
    checks.counter_state("state", state)
    checks.same_device("x", x, state=state)
    return x if p == 0.0 else _dropout(x, p, state)


def _setup_context(ctx: Any, inputs: tuple[Tensor, float, Tensor], output: Tensor) -> None:
    _, ctx.p, state = inputs
    ctx.save_for_backward(state)


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
    (state,) = ctx.saved_tensors
    return _dropout(dy, ctx.p, state), None, None


def _faster(function: str) -> tuple[Implementation, ...]:
    return tuple(
        make(__package__, function) for make in (implementations.cpu, implementations.triton, implementations.cuda)
    )


_uniform = define_op(
    "counter_uniform(Tensor state, SymInt[] shape) -> Tensor",
    reference=reference.counter_uniform,
    fake=lambda state, shape: state.new_empty(shape, dtype=torch.float32),
    implementations=_faster("counter_uniform"),
)
_dropout = define_op(
    "counter_dropout(Tensor x, float p, Tensor state) -> Tensor",
    reference=reference.counter_dropout,
    fake=lambda x, p, state: torch.empty_like(x, memory_format=torch.contiguous_format),
    implementations=_faster("counter_dropout"),
    backward=_backward,
    setup_context=_setup_context,
)
