"""The Triton kernels: in the interpreter (or on a GPU) against fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cofi_kernels.layer_match import reference
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager

pytest.importorskip("triton")
from cofi_kernels.layer_match import triton_kernels  # noqa: E402

Inputs = tuple[list[Tensor], list[Tensor], Tensor, Tensor]

# (tokens, teacher layers, teacher hidden, student layers, student hidden): one of everything, nothing that a block
# divides, student wider and narrower, blocks of tokens and of both hidden sizes more than one
SHAPES = [(1, 1, 1, 1, 1), (37, 4, 31, 6, 31), (67, 2, 71, 3, 17), (130, 3, 16, 2, 140), (64, 1, 64, 12, 64)]


def inputs_of(shape: tuple[int, int, int, int, int], device: str) -> Inputs:
    n_tokens, n_teacher, teacher_hidden, n_student, student_hidden = shape
    teacher = [torch.randn(n_tokens, teacher_hidden, device=device) for _ in range(n_teacher)]
    student = [torch.randn(n_tokens, student_hidden, device=device) for _ in range(n_student)]
    weight = torch.eye(teacher_hidden, student_hidden, device=device) + 0.1 * torch.randn(
        teacher_hidden, student_hidden, device=device
    )
    return teacher, student, weight, torch.randn(teacher_hidden, device=device)


def cast(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    teacher, student, weight, bias = inputs
    return [t.to(dtype) for t in teacher], [s.to(dtype) for s in student], weight.to(dtype), bias.to(dtype)


def flat(grads: tuple[list[Tensor], Tensor, Tensor]) -> dict[str, Tensor]:
    dstudent, dweight, dbias = grads
    return {**{f"dstudent_{j}": d for j, d in enumerate(dstudent)}, "dweight": dweight, "dbias": dbias}


def assert_matches_reference(inputs: Inputs, source: Tensor | None, dm: Tensor, n_tokens: Tensor | None = None) -> None:
    exact = cast(inputs, torch.float64)
    got_matrix, want_matrix = (
        f(*x, source, n_tokens) for f, x in ((triton_kernels.forward, inputs), (reference.forward, exact))
    )
    assert_close_to_fp64(got_matrix, want_matrix, name="matrix")
    got = flat(triton_kernels.backward(dm, *inputs, source, n_tokens))
    want = flat(reference.backward(dm.double(), *exact, source, n_tokens))
    for name, grad in got.items():
        assert grad.dtype == torch.float32
        assert_close_to_fp64(grad, want[name], name=name)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matrix_and_gradients_match_fp64(device, shape):
    assert_matches_reference(inputs_of(shape, device), None, torch.randn(shape[1], shape[3], device=device))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("source", [(0, 0, 0, 0, 0, 0), (0, 1, 1, 3, 3, 3), (0, 1, 2, 3, 4, 1)], ids=str)
def test_repeated_layers_take_the_column_and_give_the_gradient_of_their_source(device, source, dtype):
    source = torch.tensor(source, dtype=dtype, device=device)
    assert_matches_reference(inputs_of((37, 4, 31, 6, 31), device), source, torch.randn(4, 6, device=device))


def test_repeated_layers_are_not_read(device):
    inputs = inputs_of((37, 4, 31, 3, 31), device)
    inputs[1][1].fill_(float("nan"))
    source = torch.tensor([0, 0, 2], device=device)
    assert triton_kernels.forward(*inputs, source, None).isfinite().all()
    grads = flat(triton_kernels.backward(torch.ones(4, 3, device=device), *inputs, source, None))
    assert all(grad.isfinite().all() for grad in grads.values()) and not grads["dstudent_1"].any()


SELECTIONS = {
    "none": [],
    "one": [(0, 5)],
    "one a teacher layer": [(0, 1), (1, 1), (2, 4), (3, 5)],
    "the first and the last": [(0, 0), (3, 5)],
}


@pytest.mark.parametrize("entries", SELECTIONS.values(), ids=SELECTIONS)
def test_gradient_of_selected_entries_matches_fp64(device, entries):
    dm = torch.zeros(4, 6, device=device)
    for entry in entries:
        dm[entry] = 1.0 + torch.rand(())
    source = torch.tensor([0, 1, 2, 3, 2, 5], device=device)
    assert_matches_reference(inputs_of((37, 4, 31, 6, 31), device), source, dm)


@pytest.mark.parametrize("count", [1, 63, 64, 129])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_padding_counts_for_nothing(device, count, dtype):
    inputs = inputs_of((130, 3, 16, 2, 40), device)
    for state in (*inputs[0], *inputs[1]):
        state[count:] = float("nan")
    n_tokens = torch.tensor(count, dtype=dtype, device=device)
    assert_matches_reference(inputs, None, torch.randn(3, 2, device=device), n_tokens)
    dstudent, _, _ = triton_kernels.backward(torch.ones(3, 2, device=device), *inputs, None, n_tokens)
    assert not any(grad[count:].any() for grad in dstudent) and all(grad[:count].all() for grad in dstudent)


def test_layers_without_a_gradient_are_not_read(device):
    teacher, student, weight, bias = inputs_of((37, 4, 31, 6, 31), device)
    for states, used in ((teacher, 1), (student, 2)):
        for i, state in enumerate(states):
            state.fill_(float("nan") if i != used else 1.0)
    dm = torch.zeros(4, 6, device=device)
    dm[1, 2] = 1.0
    grads = flat(triton_kernels.backward(dm, teacher, student, weight, bias, None, None))
    assert all(grad.isfinite().all() for grad in grads.values())
    assert [name for name, grad in grads.items() if grad.any()] == ["dstudent_2", "dweight", "dbias"]


def test_small_differences_keep_their_digits(device):
    """States of size 100 that differ by 0.001: |a|^2 - 2ab + |b|^2 would have no digit left in fp32."""
    teacher = [torch.randn(37, 31, device=device) * 100]
    student = [teacher[0] + torch.randn(37, 31, device=device) * 1e-3]
    got = triton_kernels.forward(
        teacher, student, torch.eye(31, device=device), torch.zeros(31, device=device), None, None
    )
    assert_close_to_fp64(got[0, 0], (student[0].double() - teacher[0].double()).square().mean())


def test_nan_in_the_gradient_is_not_hidden(device):
    inputs = inputs_of((5, 2, 8, 3, 8), device)
    dm = torch.tensor([[1.0, 0.0, 0.0], [0.0, float("nan"), 0.0]], device=device)
    dstudent, dweight, _ = triton_kernels.backward(dm, *inputs, None, None)
    assert dweight.isnan().all() and dstudent[1].isnan().all() and not dstudent[2].any()


def test_fp16_is_no_worse_than_eager(device):
    """The blocks of the tensor cores, more than one of each."""
    half = cast(inputs_of((150, 3, 136, 3, 72), device), torch.float16)
    exact, source = cast(half, torch.float64), torch.tensor([0, 1, 1], device=device)
    got = triton_kernels.forward(*half, source, None)
    assert got.dtype == torch.float32
    assert_no_worse_than_eager(got, reference.forward(*half, source, None), reference.forward(*exact, source, None))
    dm = torch.randn(3, 3, device=device) * 1e3
    want = flat(reference.backward(dm.double(), *exact, source, None))
    eager = flat(reference.backward(dm, *half, source, None))
    for name, grad in flat(triton_kernels.backward(dm, *half, source, None)).items():
        assert grad.dtype == torch.float16
        assert_no_worse_than_eager(grad, eager[name], want[name], name=name)


def test_gradients_too_small_for_fp16_are_summed_with_all_their_digits(device):
    """Differences weighted with 1e-6 have 4 bits in fp16; what is summed is scaled so that they keep all."""
    half = cast(inputs_of((150, 3, 136, 3, 72), device), torch.float16)
    dm = torch.full((3, 3), 0.01, device=device)
    want = reference.backward(dm.double(), *cast(half, torch.float64), None, None)[1]
    allowed = 2.0**-24 + 2.0**-10 * want.abs().max()  # a step of the smallest numbers, a rounding of the largest
    errors = [(f(dm, *half, None, None)[1] - want).abs().max() for f in (triton_kernels.backward, reference.backward)]
    assert errors[0] <= allowed < errors[1]


def test_result_repeats_to_the_bit(device):
    inputs = inputs_of((130, 3, 40, 4, 40), device)
    dm = torch.randn(3, 4, device=device)
    runs = [
        (triton_kernels.forward(*inputs, None, None), *flat(triton_kernels.backward(dm, *inputs, None, None)).values())
    ] * 2
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
