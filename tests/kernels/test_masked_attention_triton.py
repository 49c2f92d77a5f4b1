"""Masked attention's Triton kernels in the interpreter (or on a GPU): value and every gradient against fp64."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cofi_kernels import backends, counter_uniform, implementations
from cofi_kernels.masked_attention import op as registered
from cofi_kernels.masked_attention import reference
from tests.kernels.oracle import CORNERS, assert_half_no_worse_than_eager, assert_matches, gradients
from tests.kernels.test_masked_attention import STATE, bounds, inputs_of, plain

pytest.importorskip("triton")
from cofi_kernels.masked_attention import flash_backward, triton_kernels  # noqa: E402


class _Kernels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        y, *saved = triton_kernels.forward(*args)
        ctx.args, ctx.saved = args, saved
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, w_qkv, _, w_out, b_out, *others = ctx.args
        grads = triton_kernels.backward(dy, x, w_qkv, w_out, b_out, *others, *ctx.saved)
        dmasks = (None if z is None else dz for z, dz in zip(others[3:6], grads[5:], strict=True))
        return *grads[:5], None, None, None, *dmasks, None, None


def op_of(lengths: list[int], head_dim: int, device: str, slack: int = 0, p: float = 0.0) -> Any:
    sizes = (bounds(lengths, device), max(lengths, default=0) + slack, head_dim)
    state = torch.tensor(STATE, device=device)

    def op(z_head: Tensor | None, z_mha: Tensor | None, z_hidden: Tensor | None, **weights: Tensor) -> Tensor:
        return _Kernels.apply(*weights.values(), *sizes, z_head, z_mha, z_hidden, p, state)

    return op


def dropout_factor(n_heads: int, lengths: list[int], p: float, device: str, slack: int = 0) -> Tensor:
    """(H, T, S): 0 for the probabilities that the counter drops, 1 / (1 - p) for the others."""
    u = counter_uniform(torch.tensor(STATE, device=device), (n_heads, sum(lengths), max(lengths) + slack))
    return (u.double() >= p) / (1 - p)


@pytest.mark.parametrize("masks", CORNERS)
def test_value_and_gradients_match_fp64_under_every_mask(device, masks):
    lengths = [5, 0, 7, 1]
    inputs = inputs_of(sum(lengths), (3, 32, 17), masks, device)
    assert_matches(op_of(lengths, 32, device), partial(plain, lengths=lengths, head_dim=32), inputs)


# one token, sequences without any, keys of several blocks of 32 (fp32's), which one program no longer holds
LENGTHS = {
    "one token": [1],
    "empty sequences": [0, 3, 0, 0, 7, 1, 0],
    "one block": [32, 31],
    "blocks": [33, 2, 64, 97],
    "no token": [0, 0],
    "no sequence": [],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_value_and_gradients_match_fp64_at_every_length(device, lengths):
    inputs = inputs_of(sum(lengths), (3, 32, 24), "all kinds", device)
    assert_matches(op_of(lengths, 32, device), partial(plain, lengths=lengths, head_dim=32), inputs)


# (heads, head dim, hidden): no head, widths of every head
@pytest.mark.parametrize("size", [(0, 32, 24), (1, 64, 31), (3, 128, 40), (1, 32, 128)], ids=str)
def test_value_and_gradients_match_fp64_at_every_size(device, size):
    lengths = [5, 36]
    inputs = inputs_of(41, size, "all kinds", device)
    assert_matches(op_of(lengths, size[1], device), partial(plain, lengths=lengths, head_dim=size[1]), inputs)


# rows of probabilities start at Philox blocks where the longest is a multiple of 4
@pytest.mark.parametrize("slack", [2, 3], ids=["aligned", "unaligned"])
@pytest.mark.parametrize("lengths", [[5, 0, 10, 1], [34, 3]], ids=["one block", "blocks"])
def test_dropout_is_the_counters_in_value_and_gradients(device, lengths, slack):
    """The oracle draws its own mask from the definition of the element's index."""
    factor = dropout_factor(4, lengths, 0.3, device, slack)
    inputs = inputs_of(sum(lengths), (4, 32, 29), "all kinds", device)
    op = op_of(lengths, 32, device, slack, 0.3)
    assert_matches(op, partial(plain, lengths=lengths, head_dim=32, factor=factor), inputs)


# (lengths, (heads, head dim, hidden), masks, fp32 masters, dropout): what one program holds, 64 and 128 keys, and more
# than 512; heads of every width; dropout where rows of probabilities start at Philox blocks and where not; all that
# dies
HALVES = {
    "64 keys": ([5, 0, 40], (2, 64, 64), "all live", False, 0.0),
    "128 keys": ([100, 30], (2, 64, 64), "all live", True, 0.0),
    "530 tokens beside 1 and 37": ([530, 1, 37], (1, 32, 24), "all kinds", True, 0.0),
    "heads of 32": ([3, 28], (2, 32, 40), "all kinds", False, 0.3),
    "heads of 128": ([33, 5], (2, 128, 24), "all kinds", True, 0.3),
    "one head": ([5, 0, 7, 1], (3, 32, 17), "one unit", False, 0.3),
    "no head": ([5, 0, 7, 1], (3, 32, 17), "no unit", True, 0.3),
    "dead layer": ([5, 0, 7, 1], (3, 32, 17), "dead layer", True, 0.0),
    "no hidden dim": ([5, 0, 7, 1], (3, 32, 17), "no hidden dim", False, 0.0),
}


@pytest.mark.parametrize("lengths, size, masks, masters, p", HALVES.values(), ids=HALVES)
def test_fp16_is_no_worse_than_eager(device, lengths, size, masks, masters, p):
    factor = dropout_factor(size[0], lengths, p, device)
    formula = partial(plain, lengths=lengths, head_dim=size[1], factor=factor)
    inputs = inputs_of(sum(lengths), size, masks, device)
    assert_half_no_worse_than_eager(op_of(lengths, size[1], device, p=p), formula, inputs, masters=masters)


def test_dead_heads_are_never_computed(device):
    """A weight row that is not a number shows itself in every product that it enters."""
    lengths = [9, 3]
    inputs = inputs_of(12, (4, 32, 29), "all kinds", device)
    dead = (inputs["z_head"] == 0).repeat_interleave(32)
    for name, rows in (("w_qkv", (slice(None), dead)), ("b_qkv", (slice(None), dead)), ("w_out", dead)):
        inputs[name][rows] = float("nan")
    y, grads = gradients(op_of(lengths, 32, device), inputs, torch.float32, torch.randn(12, 29, device=device))
    assert y.isfinite().all() and all(grad.isfinite().all() for grad in grads.values())
    assert not grads["w_qkv"][:, dead].any() and not grads["w_out"][dead].any()


def test_workspaces_hold_live_heads_at_the_front_of_their_rows(device):
    inputs = inputs_of(12, (4, 32, 29), "one unit", device)
    args = (*inputs.values(),)
    sizes = (bounds([9, 3], device), 9, 32)
    _, qkv, context, lse, folded = triton_kernels.forward(*args[:5], *sizes, *args[5:], 0.0, None)
    assert (qkv.shape, context.shape, lse.shape) == ((12 * 384,), (12 * 128,), (48,))
    assert folded[: 32 * 29].isfinite().all()
    for workspace, used in ((qkv.view(12, -1), 96), (context.view(12, -1), 32), (lse.view(1, -1), 12)):
        assert workspace[:, :used].isfinite().all() and workspace[:, used:].isnan().all()  # poisoned by the tests


def test_the_same_bits_at_every_run(device):
    inputs = inputs_of(38, (2, 32, 17), "all live", device)
    op, dy = op_of([33, 5], 32, device, p=0.1), torch.randn(38, 17, device=device)
    first, again = (gradients(op, inputs, torch.float32, dy)[1] for _ in range(2))
    assert all(torch.equal(grad, again[name]) for name, grad in first.items())


def test_partial_sums_of_heads_are_added_in_several_rounds(device, monkeypatch):
    monkeypatch.setattr(flash_backward, "_SUM_ROWS", 2)
    lengths = [3, 1, 2, 1, 4]
    inputs = inputs_of(11, (3, 32, 24), "units only", device)
    assert_matches(op_of(lengths, 32, device), partial(plain, lengths=lengths, head_dim=32), inputs)


def test_bounds_beyond_the_tokens_touch_nothing_else(device):
    """On a GPU nobody checks what cu_seqlens holds."""
    memory = torch.zeros(30, 24, device=device)
    inputs = {**inputs_of(10, (3, 32, 24), "no mask", device), "x": memory[10:20].requires_grad_()}
    cu_seqlens = torch.tensor([-3, 4, 900, 2], dtype=torch.int32, device=device)
    y = _Kernels.apply(*list(inputs.values())[:5], cu_seqlens, 10, 32, None, None, None, 0.0, None)
    y.sum().backward()
    assert y[:4].isfinite().all()


def test_declines_what_the_kernels_cannot_do():
    arguments = (None,) * 6
    assert registered._declines(torch.zeros(1), *arguments, 64) is None
    assert "a head_dim of 32, 64, 128, not 48" in str(registered._declines(torch.zeros(1), *arguments, 48))
    assert "not in torch.float64" in str(registered._declines(torch.zeros(1).double(), *arguments, 64))


def test_report_says_what_a_gpu_leaves_to_the_reference(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    implementations.why_not_triton.cache_clear()
    try:
        report = str(backends())
    finally:
        implementations.why_not_triton.cache_clear()
    assert re.search(
        r"masked_attention +cuda +triton +reference for fp64 and a head_dim other than 32, 64, 128", report
    )
    assert re.search(r"masked_layer_norm_backward +cuda +triton +reference for fp64\n", report)


def test_fake_of_a_gpu_promises_what_the_kernels_return(device):
    inputs = inputs_of(12, (3, 32, 24), "all live", device)
    x, masks = inputs["x"].half(), tuple(inputs.values())[5:]
    weights = tuple(inputs[name] for name in ("w_qkv", "b_qkv", "w_out", "b_out"))
    sizes, dropout = (bounds([9, 3], device), 9, 32), (0.0, None)
    outputs = triton_kernels.forward(x, *weights, *sizes, *masks, *dropout)
    given = (x, weights[0], weights[2], weights[3], *sizes, *masks, *dropout, *outputs[1:])
    grads = triton_kernels.backward(torch.ones_like(x), *given)
    ops = torch.ops.cofi_kernels
    with FakeTensorMode():
        promised = ops.masked_attention.default(*map(on_gpu, (x, *weights, *sizes, *masks, *dropout)))
        promised_grads = ops.masked_attention_backward.default(*map(on_gpu, (x, *given)))
    for got, fake in zip((*outputs, *grads), (*promised, *promised_grads), strict=True):
        assert (got.shape, got.dtype) == (fake.shape, fake.dtype)


def on_gpu(argument: Any) -> Any:
    """What stands for a tensor of a GPU under FakeTensorMode; no GPU is needed."""
    if not isinstance(argument, Tensor):
        return argument
    return torch.empty(argument.shape, dtype=argument.dtype, device="cuda")


def test_reference_and_kernels_take_the_same_arguments():
    """They are called by position."""
    assert list(reference.forward.__annotations__) == list(triton_kernels.forward.__annotations__)
    assert list(reference.backward.__annotations__) == list(triton_kernels.backward.__annotations__)
