"""Public op: argument checks, registration, gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cofi_kernels import checks
from cofi_kernels.implementations import on_cpu, triton
from cofi_kernels.layer_match import reference, sources
from cofi_kernels.library import define_op
from cofi_kernels.masking import accumulation_dtype

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def layer_match(
    teacher: Sequence[Tensor],
    student: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
    *,
    source: Sequence[int] | Tensor | None = None,
    n_tokens: Tensor | None = None,
) -> Tensor:
    """Mean squared errors of every teacher layer against every transformed student layer.

    teacher: Lt tensors (T, Et), no gradient; student: Ls tensors (T, Es); fp32, bf16, fp16 or fp64, one dtype for all
    weight: (Et, Es), bias: (Et,): the layer transform, shared by all student layers
    source: for each student layer the smallest one whose state it repeats (itself where it repeats none): a layer that
        is dead is transformed once, its column is its source's and so is its gradient. Integers, or int32 or int64
        (Ls,) on the states' device: a GPU reads it there, so the masks may change between two replays of a graph
    n_tokens: 0-dim int32 or int64 on the states' device, how many rows count: those after them are padding, which no
        result depends on, and get zeros. By default all; the first always does
    returns (Lt, Ls), fp32 (fp64 for fp64): mean over tokens and teacher dims of (student_j W^T + b - teacher_t)^2.
    Its backward computes only the entries whose gradient is not 0. Raises ValueError or TypeError for wrong
    arguments, and ValueError for no tokens at all, whose mean does not exist. CoFi, section 4 (layerwise distillation).
    """
    _check_states(teacher, student)
    _check_transform(teacher[0], student[0], weight, bias)
    if n_tokens is not None:
        checks.shape_is("n_tokens", n_tokens, ())
        checks.dtype_in("n_tokens", n_tokens, (torch.int32, torch.int64))
        checks.same_device("student", student[0], n_tokens=n_tokens)
    return _forward(list(teacher), list(student), weight, bias, _source_tensor(source, student), n_tokens)


def _check_states(teacher: Sequence[Tensor], student: Sequence[Tensor]) -> None:
    for name, states in (("teacher", teacher), ("student", student)):
        if len(states) == 0:
            raise ValueError(f"{name} must hold at least one layer, got none")
        checks.shape_is(f"{name}[0]", states[0], ("tokens", "hidden"))
        for i, state in enumerate(states):
            checks.same_shape(f"{name}[0]", states[0], f"{name}[{i}]", state)
    if teacher[0].shape[0] != student[0].shape[0]:
        counts = f"{teacher[0].shape[0]} and {student[0].shape[0]}"
        raise ValueError(f"teacher and student must have as many tokens, got {counts}")
    if teacher[0].shape[0] == 0:
        raise ValueError("teacher and student must have at least one token, got 0")


def _check_transform(teacher: Tensor, student: Tensor, weight: Tensor, bias: Tensor) -> None:
    checks.dtype_in("student", student, _DTYPES)
    checks.shape_is("weight", weight, (teacher.shape[1], student.shape[1]))
    checks.shape_is("bias", bias, (teacher.shape[1],))
    for name, tensor in (("teacher", teacher), ("weight", weight), ("bias", bias)):
        if tensor.dtype != student.dtype:
            raise TypeError(f"{name} must have the dtype of student, {student.dtype}, got {tensor.dtype}")
    checks.same_device("student", student, teacher=teacher, weight=weight, bias=bias)


def _source_tensor(source: Sequence[int] | Tensor | None, student: Sequence[Tensor]) -> Tensor | None:
    """`source` on the states' device. What a tensor holds is checked where it is read, on a CPU."""
    if source is None:
        return None
    if isinstance(source, Tensor):
        checks.shape_is("source", source, (len(student),))
        checks.dtype_in("source", source, (torch.int32, torch.int64))
        checks.same_device("student", student[0], source=source)
        return source
    sources.check(source, len(student))
    return torch.tensor(source, dtype=torch.int64, device=student[0].device)


def _fake(teacher: list[Tensor], student: list[Tensor], *_: Any) -> Tensor:
    return student[0].new_empty((len(teacher), len(student)), dtype=accumulation_dtype(student[0].dtype))


def _fake_backward(
    dm: Tensor, teacher: list[Tensor], student: list[Tensor], weight: Tensor, bias: Tensor, *_: Tensor | None
) -> tuple[list[Tensor], Tensor, Tensor]:
    states = [state.new_empty(state.shape) for state in student]
    return states, weight.new_empty(weight.shape), bias.new_empty(bias.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    teacher, student, weight, bias, source, n_tokens = inputs
    ctx.n_teacher = len(teacher)
    ctx.save_for_backward(*teacher, *student, weight, bias, source, n_tokens)


def _backward_formula(ctx: Any, dm: Tensor) -> tuple[Any, ...]:
    *states, weight, bias, source, n_tokens = ctx.saved_tensors
    teacher, student = states[: ctx.n_teacher], states[ctx.n_teacher :]
    dstudent, dweight, dbias = _backward(dm, teacher, student, weight, bias, source, n_tokens)
    return [None] * ctx.n_teacher, list(dstudent), dweight, dbias, None, None


_ARGUMENTS = "Tensor[] teacher, Tensor[] student, Tensor weight, Tensor bias, Tensor? source, Tensor? n_tokens"
_backward = define_op(
    f"layer_match_backward(Tensor dm, {_ARGUMENTS}) -> (Tensor[], Tensor, Tensor)",
    reference=reference.backward,
    fake=_fake_backward,
    implementations=[on_cpu(__package__, "selected", "backward"), triton(__package__, "backward")],
)
_forward = define_op(
    f"layer_match({_ARGUMENTS}) -> Tensor",
    reference=reference.forward,
    fake=_fake,
    implementations=[on_cpu(__package__, "selected", "forward"), triton(__package__, "forward")],
    backward=_backward_formula,
    setup_context=_setup_context,
)
