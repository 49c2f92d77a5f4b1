"""Pooler and classifier in Triton, in the interpreter or on a GPU: values against fp64, with and without each."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels.first_token_head import reference
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager
from tests.kernels import aot
from tests.kernels.test_first_token_head import PARTS, case, expected

pytest.importorskip("triton")
from cofi_kernels.first_token_head import triton_kernels  # noqa: E402
from cofi_kernels.first_token_head.triton_kernels import FEW, MANY, Tile  # noqa: E402


def made(device, *sizes, dtype=torch.float32, **options):
    moved = [None if t is None else t.to(device) for t in case(*sizes, **options)]
    return [t if t is None or not t.is_floating_point() else t.to(dtype) for t in moved]


def run(function, args, activation="tanh"):
    return function(*args[:4], activation, *args[4:])


def check(device, args, activation="tanh"):
    """fp32 in the interpreter, where products are exact; low precision on a GPU, as there fp32 would be TF32."""
    if device == "cuda":
        args = [t if t is None or not t.is_floating_point() else t.bfloat16() for t in args]
        pairs = zip(
            run(triton_kernels.launch, args, activation),
            run(reference.forward, args, activation),
            expected(args, activation),
            strict=True,
        )
        for got, eager, want in pairs:
            assert_no_worse_than_eager(got, eager, want)
        return
    for got, want in zip(run(triton_kernels.launch, args, activation), expected(args, activation), strict=True):
        assert_close_to_fp64(got, want)


@pytest.mark.parametrize("lengths", [(1,), (3, 1, 5), (1, 4) * 8 + (7,)], ids=["1", "3", "17"])
@pytest.mark.parametrize("hidden, pooler", [(1, 1), (83, 131), (64, 64), (764, 70)])
def test_values_match_fp64(device, lengths, hidden, pooler):
    check(device, made(device, lengths, hidden, pooler))


def test_many_sequences_take_the_larger_tile(device):
    check(device, made(device, (1, 2) * 65, 83, 70))


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_parts_that_are_not_there(device, parts):
    args = made(device, (3, 1, 5), parts=parts)
    check(device, args)
    pooled, logits = run(triton_kernels.launch, args)
    assert (pooled.shape[1], logits.shape[1]) == (37 * parts[0], 3 * parts[1])


@pytest.mark.parametrize("size", [1e-4, 0.05, 1.0, 1e4])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activations_of_small_and_large_values(device, activation, size):
    args = made(device, (3, 1, 5))
    args[2] *= size
    args[3] *= size
    check(device, args, activation)


def test_nan_stays_in_its_sequence(device):
    args = made(device, (3, 1, 5))
    args[0][3, 5] = float("nan")
    _, logits = run(triton_kernels.launch, args)
    assert logits[1].isnan().all() and logits[[0, 2]].isfinite().all()


def test_a_sequence_that_begins_at_no_token_reads_nothing(device):
    args = made(device, (3, 1, 5))
    args[1] = torch.tensor([0, 9, -4, 9], dtype=torch.int32, device=device)
    pooled, _ = run(triton_kernels.launch, args)
    if device == "cpu":
        torch.testing.assert_close(pooled[1:], torch.tanh(args[3]).expand(2, -1))
    assert pooled.isfinite().all()


def test_no_sequence(device):
    weights = made(device, (1,))[2:]
    bounds = torch.zeros(1, dtype=torch.int32, device=device)
    pooled, logits = run(triton_kernels.launch, [torch.zeros(0, 83, device=device), bounds, *weights])
    assert pooled.shape == (0, 37) and logits.shape == (0, 3)


def test_low_precision_is_no_worse_than_eager(device):
    args = made(device, (3, 1, 5), dtype=torch.float16)
    results = (run(triton_kernels.forward, args), run(reference.forward, args), expected(args))
    for got, eager, want in zip(*results, strict=True):
        assert_no_worse_than_eager(got, eager, want)


def test_other_dtypes_go_to_the_reference(device):
    args = made(device, (3, 1, 5))
    for got, want in zip(run(triton_kernels.forward, args), run(reference.forward, args), strict=True):
        assert torch.equal(got, want)


def pooler(tile: Tile, dependent: bool) -> aot.Case:
    arguments = {
        **{"x_ptr": "*bf16", "bounds_ptr": "*i32", "w_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*bf16"},
        **{"n_sequences": "i32", "n_tokens": "i32", "hidden": 764, "n_columns": "i32"},
        **{"ACTIVATION": None, "BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "BLOCK_K": tile.depth},
        "DEPENDENT": dependent,
    }
    name = "cofi_kernels.first_token_head.triton_kernels:pooler_kernel"
    architectures = aot.DEPENDENT_ARCHITECTURES if dependent else aot.ARCHITECTURES
    options = {"num_warps": tile.warps, "num_stages": tile.stages}
    return aot.Case(name, arguments, options, {"ACTIVATION": "tanh"}, architectures=architectures)


def labels(dependent: bool) -> aot.Case:
    arguments = {
        **{"x_ptr": "*bf16", "bounds_ptr": None, "w_ptr": "*bf16", "b_ptr": "*bf16", "out_ptr": "*bf16"},
        **{"n_tokens": "i32", "depth": 764, "n_labels": "i32"},
        **{"BLOCK": 1024, "DEPENDENT": dependent},
    }
    name = "cofi_kernels.first_token_head.triton_kernels:label_kernel"
    architectures = aot.DEPENDENT_ARCHITECTURES if dependent else aot.ARCHITECTURES
    return aot.Case(name, arguments, {"num_warps": 4}, architectures=architectures)


def test_they_compile_for_every_architecture_without_spills():
    cases = [pooler(FEW, False), pooler(MANY, False), labels(False), pooler(FEW, True), labels(True)]
    for report in aot.compile_cases(cases):
        aot.assert_fits(report)
