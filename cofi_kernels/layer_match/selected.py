"""Layer matching on the CPU; its backward for the entries that were selected only.

dM is read on the host, which costs nothing here: of a whole matrix usually one entry a teacher layer has a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.layer_match import sources
from cofi_kernels.masking import accumulation_dtype
from cofi_kernels.products import matmul


def forward(
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Tensor | None,
    n_tokens: Tensor | None,
) -> Tensor:
    """As `reference.forward`; repeated layers are not transformed, and the differences share one buffer."""
    teacher, student = _without_padding(teacher, n_tokens), _without_padding(student, n_tokens)
    columns: dict[int, Tensor] = {}
    origins = sources.on_host(source, len(student))
    for j in sorted(set(origins)):
        transformed = matmul(student[j], weight.t(), bias)
        transformed = transformed.to(accumulation_dtype(transformed.dtype))
        room = torch.empty_like(transformed)
        errors = [_mean_square(torch.sub(transformed, state, out=room)) for state in teacher]
        columns[j] = torch.stack(errors)
    return torch.stack([columns[j] for j in origins], dim=1)


def _without_padding(states: list[Tensor], n_tokens: Tensor | None) -> list[Tensor]:
    return states if n_tokens is None else [state[: max(1, int(n_tokens))] for state in states]


def _mean_square(difference: Tensor) -> Tensor:
    flat = difference.flatten()
    return torch.dot(flat, flat) / flat.numel()


def backward(
    dm: Tensor,
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Tensor | None,
    n_tokens: Tensor | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """As `reference.backward`."""
    dstudent = [state.new_zeros(state.shape) for state in student]
    teacher, student = _without_padding(teacher, n_tokens), _without_padding(student, n_tokens)
    dweight, dbias = weight.new_zeros(weight.shape), bias.new_zeros(bias.shape)
    for j, factors in _selected(dm, sources.on_host(source, len(student)), 2.0 / teacher[0].numel()).items():
        r = matmul(student[j], weight.t(), bias).mul_(sum(factors.values()))
        for t, factor in factors.items():
            r.sub_(teacher[t], alpha=factor)
        if n_tokens is None:
            dstudent[j] = matmul(r, weight)
        else:
            dstudent[j][: r.shape[0]] = matmul(r, weight)
        dweight += matmul(r.t(), student[j])
        dbias += r.sum(0)
    return dstudent, dweight, dbias


def _selected(dm: Tensor, source: list[int], scale: float) -> dict[int, dict[int, float]]:
    """Student layer to transform -> teacher layer -> factor of their difference, for factors that are not zero."""
    selected: dict[int, dict[int, float]] = {}
    for t, row in enumerate(dm.tolist()):
        for j, gradient in enumerate(row):
            if gradient != 0.0:
                factors = selected.setdefault(source[j], {})
                factors[t] = factors.get(t, 0.0) + gradient * scale
    return selected
