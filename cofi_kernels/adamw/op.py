"""Public op: argument checks and registration. It changes its arguments in place and has no gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.adamw import reference
from cofi_kernels.implementations import cpu
from cofi_kernels.library import define_op

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@torch.no_grad()
def adamw_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor | None],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    *,
    steps: Sequence[float],
    lrs: Sequence[float],
    weight_decays: Sequence[float],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    max_norm: float = 0.0,
) -> Tensor:
    """Clip all gradients by their common norm and step all tensors with AdamW, in place.

    params, exp_avgs, exp_avg_sqs: tensors of one shape and dtype for each parameter; fp32, bf16, fp16 or fp64
    grads: a tensor of that shape, or None for zeros: what is dead keeps its decay and its momentum and costs no memory
    steps, lrs, weight_decays: a number for each; steps count from 1
    max_norm: 0 does not clip
    returns the norm of all gradients before clipping, fp32 0-dim. The gradients themselves are left as they are.
    Raises ValueError or TypeError for wrong shapes, dtypes, lengths, and steps below 1.
    """
    tensors = {"grads": grads, "exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    _check_lengths(len(params), {**tensors, "steps": steps, "lrs": lrs, "weight_decays": weight_decays})
    if min(steps) < 1:
        raise ValueError(f"steps must be at least 1, got {min(steps)}")
    if max_norm < 0:
        raise ValueError(f"max_norm must not be negative, got {max_norm}")
    for i, param in enumerate(params):
        _check_tensors(i, param, {name: values[i] for name, values in tensors.items()})
    numbers = [[float(value) for value in values] for values in (steps, lrs, weight_decays)]
    norm = _step(list(params), list(grads), list(exp_avgs), list(exp_avg_sqs), *numbers, *betas, eps, max_norm)
    # as PyTorch's own do: by that packed weights are known to be old, and autograd that what it saved is gone
    torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs])
    return norm


def _check_lengths(n: int, lists: Mapping[str, Sequence[Any]]) -> None:
    if n == 0:
        raise ValueError("params must hold at least one tensor, got none")
    for name, values in lists.items():
        if len(values) != n:
            raise ValueError(f"{name} must have one entry for each of {n} params, got {len(values)}")


def _check_tensors(i: int, param: Tensor, others: Mapping[str, Tensor | None]) -> None:
    checks.dtype_in(f"params[{i}]", param, _DTYPES)
    for name, other in others.items():
        if other is not None:
            checks.shape_is(f"{name}[{i}]", other, tuple(param.shape))
            checks.like_x(param, **{f"{name}[{i}]": other})


def _fake(params: list[Tensor], *_: Any) -> Tensor:
    return params[0].new_empty((), dtype=torch.float32)


_step = define_op(
    "adamw_(Tensor(a!)[] params, Tensor?[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, float[] steps, "
    "float[] lrs, float[] weight_decays, float beta1, float beta2, float eps, float max_norm) -> Tensor",
    reference=reference.step,
    fake=_fake,
    implementations=[cpu(__package__, "step")],
)
