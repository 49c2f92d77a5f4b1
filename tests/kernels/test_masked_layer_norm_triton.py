"""Masked LayerNorm's Triton kernels: in the interpreter (or on a GPU) against fp64, and compiled for architectures."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import counter_uniform
from cofi_kernels.masked_layer_norm import reference
from cofi_kernels.testing import assert_close_to_fp64
from tests.kernels import aot
from tests.kernels.oracle import assert_half_no_worse_than_eager, assert_matches, gradients
from tests.kernels.test_masked_layer_norm import EPS, HIDDEN, STATE, inputs_of, plain

pytest.importorskip("triton")
from cofi_kernels.masked_layer_norm import triton_kernels  # noqa: E402
from tests.kernels import launches  # noqa: E402

SHAPES = [(1, 5), (0, 24), (9, 764)]  # one token, no token, a pruned BERT's width


class _Kernels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        y, *statistics = triton_kernels.forward(*args)
        ctx.args, ctx.statistics = args, statistics
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, _, p, state = ctx.args
        grads = triton_kernels.backward(dy, *tensors, p, state, *ctx.statistics)
        return *(None if t is None else g for t, g in zip(tensors[:5], grads, strict=True)), None, None, None, None


def op(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    z_hidden: Tensor | None,
    z_layer: Tensor | None = None,
    dropout_p: float = 0.0,
    dropout_state: Tensor | None = None,
) -> Tensor:
    return _Kernels.apply(x, residual, weight, bias, z_hidden, z_layer, EPS, dropout_p, dropout_state)


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_value_and_gradients_match_fp64_under_every_mask(device, hidden, residual):
    assert_matches(op, plain, inputs_of((37, 31), hidden, device, residual))


@pytest.mark.parametrize("hidden", ["absent", "sparse"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_match_fp64_at_every_shape(device, shape, hidden):
    assert_matches(op, plain, inputs_of(shape, hidden, device))


def test_more_tokens_than_one_round_of_the_programs_takes(device):
    assert_matches(op, plain, inputs_of((150, 12), "sparse", device))


def test_one_dim_gives_its_bias(device):
    """A single value is its own mean, exactly where nothing is added to it."""
    inputs = inputs_of((5, 1), "live", device, residual=False)
    y, grads = gradients(op, inputs, torch.float32, torch.ones(5, 1, device=device))
    assert torch.equal(y, (inputs["z_hidden"] * inputs["bias"]).expand_as(y))
    assert not grads["x"].any() and not grads["weight"].any()
    assert torch.equal(grads["bias"], 5 * inputs["z_hidden"])


# rows start at Philox blocks where E is a multiple of 4
@pytest.mark.parametrize("shape", [(9, 28), (37, 31)], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
def test_dropout_is_the_counters_in_value_and_gradients(device, shape, residual):
    state = torch.tensor(STATE, device=device)
    factor = (counter_uniform(state, shape).double() >= 0.3) / (1 - 0.3)
    run = partial(op, dropout_p=0.3, dropout_state=state)
    assert_matches(run, partial(plain, factor=factor), inputs_of(shape, "sparse", device, residual))


def test_sums_over_tokens_are_added_in_several_rounds(device, monkeypatch):
    monkeypatch.setattr(triton_kernels, "_SUM_ROWS", 4)
    assert_matches(op, plain, inputs_of((37, 31), "sparse", device))


def test_live_layer_changes_nothing(device):
    run = partial(op, z_layer=torch.tensor(0.3, device=device))
    assert_matches(run, plain, inputs_of((13, 31), "sparse", device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_dead_layer_is_the_identity(device, dropout_p, dtype):
    inputs = {name: t.to(dtype) for name, t in inputs_of((37, 31), "sparse", device).items()}
    dead, state = torch.zeros((), device=device), torch.tensor(STATE, device=device)
    run = partial(op, z_layer=dead, dropout_p=dropout_p, dropout_state=state)
    dy = torch.randn(37, 31, device=device).to(dtype)
    y, grads = gradients(run, inputs, dtype, dy)
    assert torch.equal(y, inputs["residual"])
    assert torch.equal(grads.pop("residual"), dy)
    assert not any(grad.any() for grad in grads.values())


def test_statistics_survive_a_large_mean(device):
    """Values around 1000 with a spread of 1: a variance taken as E[v^2] - E[v]^2 would have no digit left."""
    inputs = inputs_of((37, 31), "sparse", device)
    inputs["residual"] += 1000.0
    want = plain(**{name: t.double() for name, t in inputs.items()})
    error = (op(**inputs).double() - want).abs().max() / want.abs().max()
    assert error < 1e-4  # fp32 holds such values to 6e-5 of their spread


@pytest.mark.parametrize("masters", [False, True], ids=["fp16 weights", "fp32 weights"])
@pytest.mark.parametrize("hidden, p", [("live", 0.0), ("sparse", 0.3), ("dead", 0.3)], ids=str)
def test_fp16_is_no_worse_than_eager(device, hidden, p, masters):
    state = torch.tensor(STATE, device=device)
    factor = (counter_uniform(state, (24, 96)) >= p) / (1 - p)
    run = partial(op, dropout_p=p, dropout_state=state)
    inputs = inputs_of((24, 96), hidden, device)
    assert_half_no_worse_than_eager(run, partial(plain, factor=factor), inputs, masters=masters)


def test_the_same_bits_at_every_run(device):
    inputs = inputs_of((37, 31), "sparse", device)
    dy = torch.randn(37, 31, device=device)
    first, again = (gradients(op, inputs, torch.float32, dy)[1] for _ in range(2))
    assert all(torch.equal(grad, again[name]) for name, grad in first.items())


def test_statistics_are_the_references(device):
    inputs = inputs_of((13, 31), "sparse", device).values()
    got = triton_kernels.forward(*inputs, None, EPS, 0.0, None)
    want = reference.forward(*(t.double() for t in inputs), None, EPS, 0.0, None)
    for name, a, b in zip(("y", "mean", "rstd"), got, want, strict=True):
        assert_close_to_fp64(a, b, name=name)


def test_too_many_dims_are_refused(device):
    n = triton_kernels.MAX_HIDDEN + 1
    weight = torch.ones(n, device=device)
    with pytest.raises(ValueError, match=f"x must have at most 16384 hidden dims on a GPU, got {n}"):
        triton_kernels.forward(torch.ones(1, n, device=device), None, weight, weight, None, None, EPS, 0.0, None)


def test_reference_and_kernels_take_the_same_arguments():
    """They are called by position."""
    assert list(reference.forward.__annotations__) == list(triton_kernels.forward.__annotations__)
    assert list(reference.backward.__annotations__) == list(triton_kernels.backward.__annotations__)


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# hidden size; activations; parameters: fp32 masters or theirs; every mask and a residual or neither; dropout
COMPILED = {
    "BERT-base": (768, BF16, FP32, True, 0.1),
    "BERT-base without four dims": (764, BF16, FP32, True, 0.1),
    "MiniLM in fp16": (384, FP16, FP16, True, 0.1),
    "BERT-large in bf16, without dropout": (1024, BF16, BF16, True, 0.0),
    "BERT-tiny": (128, BF16, FP32, True, 0.1),
    "embeddings": (768, BF16, BF16, False, 0.1),
    "fp32": (1024, FP32, FP32, True, 0.1),
}


def launch(n_hidden: int, half: torch.dtype, parameters: torch.dtype, masked: bool, dropout_p: float) -> None:
    """Forward and backward for 4,096 tokens. Masks and states of dropout are rows of those of a model."""
    x, dy = (torch.empty(4096, n_hidden, dtype=half, device="meta") for _ in range(2))
    weight, bias = (torch.empty(n_hidden, dtype=parameters, device="meta") for _ in range(2))
    residual = torch.empty_like(x) if masked else None
    z_layer, z_hidden = (torch.empty(12, *s, device="meta")[1] if masked else None for s in ((), (n_hidden,)))
    state = torch.empty(36, 2, dtype=torch.int64, device="meta")[1]
    given = (x, residual, weight, bias, z_hidden, z_layer)
    _, *statistics = triton_kernels.forward(*given, EPS, dropout_p, state)
    triton_kernels.backward(dy, *given, dropout_p, state, *statistics)


def test_every_kernel_compiles_for_every_architecture_without_spills():
    cases: list[aot.Case] = []
    for architecture in aot.ARCHITECTURES:
        with launches.on_gpu(architecture) as found:
            for layer in COMPILED.values():
                launch(*layer)
        cases += launches.distinct(found)
    for report in aot.compile_cases(cases):
        aot.assert_fits(report)
