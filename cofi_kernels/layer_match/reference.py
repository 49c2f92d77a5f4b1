"""Teacher-layer by student-layer mean squared errors in plain PyTorch: the definition every backend reproduces.

    M[t, j] = mean over tokens and teacher dims of (student_j W^T + b - teacher_t)^2          method of CoFi, section 4
    M[t, j] = M[t, source[j]]       where student layer j is dead and repeats the state of an earlier layer

T packed tokens, those from n_tokens on being padding that counts for nothing; Lt and Ls layers, Et and Es hidden sizes
of teacher and student. Through `source` the gradient of a layer goes to the one it comes from. No value is read on the
host unless it is there already.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cofi_kernels.layer_match import sources
from cofi_kernels.masking import accumulation_dtype


def forward(
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Tensor | None,
    n_tokens: Tensor | None,
) -> Tensor:
    """Returns M (Lt, Ls) in fp32 or wider."""
    _check_on_cpu(source, len(student))
    columns = []
    for state in student:
        transformed = F.linear(state, weight, bias)
        columns.append(torch.stack([_mean_square(_accumulated(transformed, t), n_tokens) for t in teacher]))
    matrix = torch.stack(columns, dim=1)
    return matrix if source is None else matrix.index_select(1, source)


def backward(
    dm: Tensor,
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Tensor | None,
    n_tokens: Tensor | None,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Returns dstudent (one (T, Es) a layer), dweight (Et, Es), dbias (Et,).

    Only entries of dM (Lt, Ls) that are not zero contribute: with r = sum_t dM[t, j] (student_j W^T + b - teacher_t),
    dstudent_j = 2 / (T Et) r W and dW = 2 / (T Et) sum_j r^T student_j.
    """
    _check_on_cpu(source, len(student))
    dstudent = []
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(bias)
    valid = _valid_rows(teacher[0], n_tokens)  # (T, 1)
    scale = 2.0 / teacher[0].numel() if n_tokens is None else 2.0 / (valid.sum() * teacher[0].shape[1])
    factors = sources.gathered_factors(dm, source, scale)
    for j, state in enumerate(student):
        factor = factors[:, j]
        used = (factor != 0).any()  # otherwise the state is not to be read: a repeated one may hold anything
        state = torch.where(used & valid, state, 0.0)
        r = _weighted_difference(F.linear(state, weight, bias), teacher, factor)
        r = torch.where(used & valid, r, 0.0).to(weight.dtype)
        dstudent.append(r @ weight)
        dweight += r.t() @ state
        dbias += r.sum(0)
    return dstudent, dweight, dbias


def _check_on_cpu(source: Tensor | None, n_student: int) -> None:
    if source is not None and source.device.type == "cpu":
        sources.on_host(source, n_student)


def _valid_rows(state: Tensor, n_tokens: Tensor | None) -> Tensor:
    """Bool (T, 1): the rows before the padding, one at least."""
    rows = torch.arange(state.shape[0], device=state.device)[:, None]
    return rows >= 0 if n_tokens is None else rows < n_tokens.clamp(min=1)


def _mean_square(difference: Tensor, n_tokens: Tensor | None) -> Tensor:
    if n_tokens is None:
        return difference.square().mean()
    valid = _valid_rows(difference, n_tokens)
    return torch.where(valid, difference, 0.0).square().sum() / (valid.sum() * difference.shape[1])


def _accumulated(transformed: Tensor, state: Tensor) -> Tensor:
    acc = accumulation_dtype(transformed.dtype)
    return transformed.to(acc) - state.to(acc)


def _weighted_difference(transformed: Tensor, teacher: list[Tensor], factor: Tensor) -> Tensor:
    """sum_t factor[t] (transformed - teacher_t), (T, Et)."""
    total = transformed.to(factor.dtype) * factor.sum()
    for weight, state in zip(factor, teacher, strict=True):
        total = total - weight * state
    return total
