"""Layer matching: matrix and gradients against fp64, repeated layers, selected entries, registration, arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import force_backend, layer_match
from cofi_kernels.layer_match import reference, selected
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager
from tests.kernels.oracle import Inputs, assert_matches, gradients

# (tokens, teacher layers, teacher hidden, student layers, student hidden)
SHAPES = [(1, 1, 3, 1, 3), (37, 4, 31, 6, 31), (13, 2, 24, 3, 17), (64, 3, 16, 2, 40)]


def states_of(n_layers: int, n_tokens: int, n_hidden: int, device: str) -> list[Tensor]:
    return [torch.randn(n_tokens, n_hidden, device=device) for _ in range(n_layers)]


def inputs_of(shape: tuple[int, int, int, int, int], device: str) -> tuple[list[Tensor], Inputs]:
    n_tokens, n_teacher, teacher_hidden, n_student, student_hidden = shape
    student = states_of(n_student, n_tokens, student_hidden, device)
    transform = {
        "weight": torch.eye(teacher_hidden, student_hidden, device=device)
        + 0.1 * torch.randn(teacher_hidden, student_hidden, device=device),
        "bias": torch.randn(teacher_hidden, device=device),
    }
    return states_of(n_teacher, n_tokens, teacher_hidden, device), {
        **{f"student_{j}": state for j, state in enumerate(student)},
        **transform,
    }


def op(
    teacher: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    source: Any = None,
    n_tokens: Tensor | None = None,
    **student: Tensor,
) -> Tensor:
    states = [t.to(weight.dtype) for t in teacher], list(student.values())
    return layer_match(*states, weight, bias, source=source, n_tokens=n_tokens)


def plain(teacher: list[Tensor], weight: Tensor, bias: Tensor, source: Any = None, **student: Tensor) -> Tensor:
    states = list(student.values())
    states = states if source is None else [states[i] for i in source]
    entries = [((s @ weight.t() + bias - t.to(weight.dtype)) ** 2).mean() for t in teacher for s in states]
    return torch.stack(entries).view(len(teacher), len(states))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matrix_and_gradients_match_fp64(device, backend, shape):
    teacher, inputs = inputs_of(shape, device)
    assert_matches(partial(op, teacher), partial(plain, teacher), inputs)


@pytest.mark.parametrize("kind", [list, torch.IntTensor, torch.LongTensor])
@pytest.mark.parametrize("source", [(0, 0, 0, 0, 0, 0), (0, 1, 1, 3, 3, 3), (0, 1, 2, 3, 4, 1)], ids=str)
def test_repeated_layers_take_the_column_and_give_the_gradient_of_their_source(device, backend, source, kind):
    teacher, inputs = inputs_of((37, 4, 31, 6, 31), device)
    source = kind(source) if kind is list else kind(source).to(device)
    assert_matches(partial(op, teacher, source=source), partial(plain, teacher, source=source), inputs)


def test_repeated_layers_are_not_read(device, backend):
    """A dead layer's state is that of its source; what stands in it instead changes nothing."""
    teacher, inputs = inputs_of((37, 4, 31, 3, 31), device)
    inputs["student_1"].fill_(float("nan"))
    y, grads = gradients(partial(op, teacher, source=(0, 0, 2)), inputs, torch.float32, torch.ones(4, 3, device=device))
    assert y.isfinite().all() and torch.equal(y[:, 0], y[:, 1])
    assert not grads["student_1"].any()
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("entries", [[], [(0, 5)], [(0, 1), (1, 1), (2, 4), (3, 5)]], ids=str)
def test_gradient_of_selected_entries_matches_fp64(device, backend, entries):
    teacher, inputs = inputs_of((37, 4, 31, 6, 31), device)
    source = (0, 1, 2, 3, 2, 5)
    dm = torch.zeros(4, 6, device=device)
    for entry in entries:
        dm[entry] = 1.0 + torch.rand(())
    _, want = gradients(partial(plain, teacher, source=source), inputs, torch.float64, dm)
    _, got = gradients(partial(op, teacher, source=source), inputs, torch.float32, dm)
    for name, grad in got.items():
        assert_close_to_fp64(grad, want[name], name=name)


def test_backward_on_the_cpu_reads_selected_layers_only():
    teacher, inputs = inputs_of((37, 4, 31, 6, 31), "cpu")
    student = list(inputs.values())[:6]
    dm = torch.zeros(4, 6)
    dm[1, 2] = 1.0
    for states, used in ((teacher, 1), (student, 2)):
        for i, state in enumerate(states):
            state.fill_(float("nan") if i != used else 1.0)
    dstudent, dweight, dbias = selected.backward(dm, teacher, student, inputs["weight"], inputs["bias"], None, None)
    assert all(grad.isfinite().all() for grad in (*dstudent, dweight, dbias))
    assert [bool(grad.any()) for grad in dstudent] == [False, False, True, False, False, False]


@pytest.mark.parametrize("count", [1, 36, 37])
def test_padding_counts_for_nothing(device, backend, count):
    """What stands there, NaN here, is in no result and gets zeros."""
    teacher, inputs = inputs_of((37, 4, 31, 6, 31), device)
    cut = {name: t[:count].clone() if name.startswith("student") else t for name, t in inputs.items()}
    dm, source = torch.randn(4, 6, device=device), (0, 1, 1, 3, 3, 5)
    want, want_grads = gradients(partial(plain, [t[:count] for t in teacher], source=source), cut, torch.float64, dm)
    for state in (*teacher, *(t for name, t in inputs.items() if name.startswith("student"))):
        state[count:] = float("nan")
    run = partial(op, teacher, source=source, n_tokens=torch.tensor(count, device=device))
    got, got_grads = gradients(run, inputs, torch.float32, dm)
    assert_close_to_fp64(got, want)
    for name, grad in got_grads.items():
        if name.startswith("student"):
            assert not grad[count:].any()
            grad = grad[:count]
        assert_close_to_fp64(grad, want_grads[name], name=name)


def test_small_differences_keep_their_digits(device, backend):
    """States of size 100 that differ by 0.001: |a|^2 - 2ab + |b|^2 would have no digit left in fp32."""
    teacher = [torch.randn(37, 31, device=device) * 100]
    student = [teacher[0] + torch.randn(37, 31, device=device) * 1e-3]
    got = layer_match(teacher, student, torch.eye(31, device=device), torch.zeros(31, device=device))
    want = (student[0].double() - teacher[0].double()).square().mean()
    assert_close_to_fp64(got[0, 0], want)


def test_bf16_is_no_worse_than_eager(device, backend):
    teacher, inputs = inputs_of((64, 3, 48, 2, 48), device)
    teacher = [t.bfloat16() for t in teacher]
    half = {name: t.bfloat16() for name, t in inputs.items()}
    dm = torch.ones(3, 2, device=device)
    want, want_grads = gradients(partial(plain, teacher), half, torch.float64, dm)
    eager, eager_grads = gradients(partial(plain, teacher), half, torch.bfloat16, dm.bfloat16())
    leaf = {name: t.requires_grad_() for name, t in half.items()}
    got = op(teacher, **leaf)
    assert got.dtype == torch.float32
    assert_no_worse_than_eager(got.bfloat16(), eager, want)
    for name, grad in zip(leaf, torch.autograd.grad(got, list(leaf.values()), dm), strict=True):
        assert_no_worse_than_eager(grad, eager_grads[name], want_grads[name], name=name)


def test_teacher_gets_no_gradient(device, backend):
    teacher, inputs = inputs_of((5, 2, 8, 2, 8), device)
    teacher[0].requires_grad_()
    inputs["weight"].requires_grad_()
    op(teacher, **inputs).sum().backward()
    assert teacher[0].grad is None and inputs["weight"].grad is not None


def test_compiles_without_graph_break(device, backend):
    teacher, inputs = inputs_of((37, 4, 31, 6, 31), device)
    run = partial(op, teacher, source=(0, 1, 1, 3, 3, 5))
    dm = torch.randn(4, 6, device=device)
    want, want_grads = gradients(run, inputs, torch.float32, dm)
    got, got_grads = gradients(torch.compile(run, fullgraph=True, backend="aot_eager"), inputs, torch.float32, dm)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grads, want_grads)


def test_registered_op_obeys_pytorch_contract(device, backend):
    teacher, inputs = inputs_of((5, 2, 4, 3, 6), device)
    *student, weight, bias = (t.requires_grad_() for t in inputs.values())
    torch.library.opcheck(
        torch.ops.cofi_kernels.layer_match.default,
        (teacher, student, weight, bias, torch.tensor([0, 0, 2], device=device), None),
    )
    *student, weight, bias = (t.detach() for t in inputs.values())
    args = (
        torch.ones(2, 3, device=device),
        teacher,
        student,
        weight,
        bias,
        torch.tensor([0, 0, 2], device=device),
        None,
    )
    torch.library.opcheck(torch.ops.cofi_kernels.layer_match_backward.default, args)


def test_reference_backward_is_the_gradient_in_fp64():
    teacher, inputs = inputs_of((5, 2, 4, 3, 6), "cpu")
    args = tuple(t.double().requires_grad_() for t in inputs.values())
    run = partial(op, teacher, source=(0, 0, 2))
    with force_backend("reference"):
        assert torch.autograd.gradcheck(lambda *args: run(**dict(zip(inputs, args, strict=True))), args)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no layer": ({"student": []}, ValueError, "student must hold at least one layer, got none"),
    "ragged": ({"teacher": [torch.zeros(3, 8), torch.zeros(4, 8)]}, ValueError, r"teacher\[0\] and teacher\[1\]"),
    "tokens": ({"teacher": [torch.zeros(4, 8)]}, ValueError, "must have as many tokens, got 4 and 3"),
    "no token": (
        {"teacher": [torch.zeros(0, 8)], "student": [torch.zeros(0, 6)] * 2},
        ValueError,
        "must have at least one token, got 0",
    ),
    "weight": ({"weight": torch.zeros(6, 8)}, ValueError, r"weight must have shape \(8, 6\), got \(6, 8\)"),
    "bias": ({"bias": torch.zeros(6)}, ValueError, r"bias must have shape \(8\), got \(6,\)"),
    "dtype": (
        {"weight": torch.zeros(8, 6).half()},
        TypeError,
        "weight must have the dtype of student, .* torch.float16",
    ),
    "source count": ({"source": (0,)}, ValueError, "source must have one entry for each of 2 student layers, got 1"),
    "source later": ({"source": (1, 1)}, ValueError, r"source\[0\] must be a layer not after 0 .* got 1"),
    "source tensor": (
        {"source": torch.tensor([1, 1])},
        ValueError,
        r"source\[0\] must be a layer not after 0 .* got 1",
    ),
    "source shape": ({"source": torch.tensor([0])}, ValueError, r"source must have shape \(2\), got \(1,\)"),
    "source dtype": ({"source": torch.zeros(2)}, TypeError, "source must be one of .* got torch.float32"),
    "n_tokens": ({"n_tokens": torch.tensor([3])}, ValueError, r"n_tokens must have shape \(\), got \(1,\)"),
    "source of source": (
        {"student": [torch.zeros(3, 6)] * 3, "source": (0, 0, 1)},
        ValueError,
        r"source\[2\] must be a layer not after 2 that is its own source, got 1",
    ),
}


@pytest.mark.parametrize("change, error, message", BAD.values(), ids=BAD)
def test_rejects_wrong_arguments(change, error, message):
    good = {
        "teacher": [torch.zeros(3, 8)],
        "student": [torch.zeros(3, 6)] * 2,
        "weight": torch.zeros(8, 6),
        "bias": torch.zeros(8),
    }
    with pytest.raises(error, match=message):
        layer_match(**{**good, **change})


def test_reference_and_selected_take_the_same_arguments():
    """They are called by position."""
    assert list(reference.backward.__annotations__) == list(selected.backward.__annotations__)
