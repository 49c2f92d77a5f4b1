"""Pooler and classifier: values against fp64, with and without each, awkward sizes, arguments, registration."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import first_token_head
from cofi_kernels.first_token_head import reference
from cofi_kernels.testing import assert_close_to_fp64

PARTS = {"both": (True, True), "pooler": (True, False), "classifier": (False, True), "none": (False, False)}


def case(lengths, hidden=83, pooler=37, labels=3, parts=(True, True), dtype=torch.float32):
    x = torch.randn(sum(lengths), hidden, dtype=dtype)
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    w_pooler, b_pooler = torch.randn(pooler, hidden, dtype=dtype) / hidden**0.5, torch.randn(pooler, dtype=dtype)
    width = pooler if parts[0] else hidden
    w_out, b_out = torch.randn(labels, width, dtype=dtype) / width**0.5, torch.randn(labels, dtype=dtype)
    dense = (w_pooler, b_pooler) if parts[0] else (None, None)
    return [x, bounds, *dense, *((w_out, b_out) if parts[1] else (None, None))]


def expected(args, activation="tanh"):
    x, bounds, w_pooler, b_pooler, w_out, b_out = (
        a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args
    )
    return reference.forward(x, bounds, w_pooler, b_pooler, activation, w_out, b_out)


def check(args, activation="tanh"):
    for got, want in zip(first_token_head(*args, activation=activation), expected(args, activation), strict=True):
        assert_close_to_fp64(got, want)


@pytest.mark.parametrize("lengths", [(1,), (3, 1, 5), (2,) * 6, (1, 4) * 8 + (7,)], ids=["1", "3", "6", "17"])
@pytest.mark.parametrize("hidden, pooler", [(1, 1), (15, 5), (83, 131), (64, 64), (768, 70)])
def test_values_match_fp64(isa, lengths, hidden, pooler):
    check(case(lengths, hidden, pooler))


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_that_are_not_there(backend, parts):
    args = case((3, 1, 5), parts=parts)
    check(args)
    pooled, logits = first_token_head(*args)
    assert (pooled.shape[1], logits.shape[1]) == (37 * parts[0], 3 * parts[1])


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activations(isa, activation):
    check(case((3, 1, 5)), activation)


def test_saturated_and_not_finite(isa):
    args = case((3, 1, 5))
    args[0] *= 1e4
    args[0][3, 5] = float("nan")
    pooled, logits = first_token_head(*args)
    assert logits[1].isnan().all() and logits[[0, 2]].isfinite().all() and pooled[[0, 2]].abs().max() <= 1.0
    check([args[0][:3], torch.tensor([0, 3], dtype=torch.int32), *args[2:]])


def test_a_sequence_gives_the_same_bits_in_any_batch_on_any_threads(isa):
    args = case((2, 5, 1, 3, 4, 2, 6, 1), hidden=131, pooler=257)
    together = first_token_head(*args)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for b, start in enumerate(args[1][:-1].tolist()):
            alone = first_token_head(args[0][start:], torch.tensor([0, 1], dtype=torch.int32), *args[2:])
            for row, all_rows in zip(alone, together, strict=True):
                assert torch.equal(row[0], all_rows[b])
    finally:
        torch.set_num_threads(threads)


def test_no_sequence(backend):
    pooled, logits = first_token_head(torch.zeros(0, 83), torch.zeros(1, dtype=torch.int32), *case((1,))[2:])
    assert pooled.shape == (0, 37) and logits.shape == (0, 3)


def test_other_dtypes_and_strides(backend):
    args = case((3, 1, 5), dtype=torch.float64)
    for got, want in zip(first_token_head(*args), expected(args), strict=True):
        torch.testing.assert_close(got, want)
    args = case((3, 1, 5))
    args[0], args[2] = args[0].t().contiguous().t(), args[2].t().contiguous().t()
    check(args)


def test_rejects_what_does_not_fit():
    args = case((3, 1, 5))
    with pytest.raises(ValueError, match="activation must be one of tanh, gelu, relu, got 'selu'"):
        first_token_head(*args, activation="selu")
    with pytest.raises(ValueError, match="w_pooler and b_pooler must be given together"):
        first_token_head(*args[:3], None, *args[4:])
    with pytest.raises(ValueError, match=r"w_out must have shape \(outputs, 37\), got \(3, 36\)"):
        first_token_head(*args[:4], torch.zeros(3, 36), args[5])
    with pytest.raises(TypeError, match="w_pooler must have the dtype of x"):
        first_token_head(*args[:2], args[2].double(), *args[3:])
    with pytest.raises(IndexError):
        first_token_head(args[0], torch.tensor([0, 9, 9], dtype=torch.int32), *args[2:])


def test_gradient_is_refused():
    args = case((3, 1))
    args[2].requires_grad_()
    with pytest.raises(RuntimeError, match="first_token_head has no gradient"):
        first_token_head(*args)[1].sum().backward()


def test_registered_op_obeys_pytorch_contract(backend):
    x, bounds, w_pooler, b_pooler, w_out, b_out = case((3, 1, 5))
    args = (x, bounds, w_pooler, b_pooler, "tanh", w_out, b_out)
    torch.library.opcheck(torch.ops.cofi_kernels.first_token_head.default, args)
