"""Teacher-layer by student-layer mean squared errors in plain PyTorch: the definition every backend reproduces.

    M[t, j] = mean over tokens and teacher dims of (student_j W^T + b - teacher_t)^2          method of CoFi, section 4
    M[t, j] = M[t, source[j]]       where student layer j is dead and repeats the state of an earlier layer

T packed tokens, Lt and Ls layers, Et and Es hidden sizes of teacher and student. Through `source` a state is
transformed once, and its gradient goes to the layer it comes from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cofi_kernels.masking import accumulation_dtype


def forward(teacher: list[Tensor], student: list[Tensor], weight: Tensor, bias: Tensor, source: list[int]) -> Tensor:
    """Returns M (Lt, Ls) in fp32 or wider."""
    columns: dict[int, Tensor] = {}
    for j in sorted(set(source)):
        transformed = F.linear(student[j], weight, bias)
        errors = [_accumulated(transformed, state).square().mean() for state in teacher]
        columns[j] = torch.stack(errors)
    return torch.stack([columns[j] for j in source], dim=1)


def backward(
    dm: Tensor, teacher: list[Tensor], student: list[Tensor], weight: Tensor, bias: Tensor, source: list[int]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Returns dstudent (one (T, Es) a layer), dweight (Et, Es), dbias (Et,).

    Only entries of dM (Lt, Ls) that are not zero contribute: with r = sum_t dM[t, j] (student_j W^T + b - teacher_t),
    dstudent_j = 2 / (T Et) r W and dW = 2 / (T Et) sum_j r^T student_j.
    """
    dstudent = [torch.zeros_like(state, memory_format=torch.contiguous_format) for state in student]
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)
    scaled = dm * (2.0 / teacher[0].numel())
    for j in sorted(set(source)):
        factor = torch.stack([scaled[:, i] for i, origin in enumerate(source) if origin == j]).sum(0)  # (Lt,)
        r = _weighted_difference(F.linear(student[j], weight, bias), teacher, factor).to(weight.dtype)
        dstudent[j] = r @ weight
        dweight += r.t() @ student[j]
        dbias += r.sum(0)
    return dstudent, dweight, dbias


def _accumulated(transformed: Tensor, state: Tensor) -> Tensor:
    acc = accumulation_dtype(transformed.dtype)
    return transformed.to(acc) - state.to(acc)


def _weighted_difference(transformed: Tensor, teacher: list[Tensor], factor: Tensor) -> Tensor:
    """sum_t factor[t] (transformed - teacher_t), (T, Et)."""
    total = transformed.to(factor.dtype) * factor.sum()
    for weight, state in zip(factor, teacher, strict=True):
        total = total - weight * state
    return total
