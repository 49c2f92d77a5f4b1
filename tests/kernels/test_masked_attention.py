"""Masked attention: value and gradients against fp64 under every kind of mask, dropout, skipping, registration."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import counter_uniform, force_backend, masked_attention
from cofi_kernels.masked_attention import gathered, reference
from cofi_kernels.testing import assert_no_worse_than_eager
from tests.kernels.oracle import CORNERS, WAYS, Inputs, assert_matches, corner, gradients, in_way

# one token, single tokens only, sequences without any, one length, like lengths that are padded together, no token
LENGTHS = {
    "one token": [1],
    "single tokens": [1, 1, 1],
    "empty sequences": [0, 3, 0, 0, 7, 1, 0],
    "one length": [8, 8, 8],
    "like lengths": [31, 33, 32, 2, 33, 30],
    "no token": [0, 0],
    "no sequence": [],
}
# (heads, head dim, hidden)
SIZES = [(0, 32, 24), (1, 64, 31), (3, 32, 40), (5, 3, 17)]
STATE = [2**33 + 1, 7]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from in_way(request.param, monkeypatch)


def inputs_of(n_tokens: int, size: tuple[int, int, int], masks: str, device: str) -> Inputs:
    n_heads, head_dim, n_hidden = size
    width = n_heads * head_dim
    z_head, z_mha, z_hidden = corner(masks, n_heads, n_hidden, device)
    return {
        "x": torch.randn(n_tokens, n_hidden, device=device),
        "w_qkv": torch.randn(3, width, n_hidden, device=device) / n_hidden**0.5,
        "b_qkv": torch.randn(3, width, device=device),
        "w_out": torch.randn(width, n_hidden, device=device) / max(width, 1) ** 0.5,
        "b_out": torch.randn(n_hidden, device=device),
        "z_head": z_head,
        "z_mha": z_mha,
        "z_hidden": z_hidden,
    }


def bounds(lengths: list[int], device: str) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)


def op_of(lengths: list[int], head_dim: int, device: str, slack: int = 0, **options: Any) -> partial[Tensor]:
    longest = max(lengths, default=0) + slack
    return partial(
        masked_attention, cu_seqlens=bounds(lengths, device), max_seqlen=longest, head_dim=head_dim, **options
    )


def plain(
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
    lengths: list[int],
    head_dim: int,
    factor: Tensor | None = None,
) -> Tensor:
    """Sequence by sequence and head by head. factor: (H, T, S), what dropout multiplies probabilities with."""
    y = b_out.expand(x.shape)
    start = 0
    for n in lengths:
        rows = slice(start, start + n)
        for h in range(w_out.shape[0] // head_dim):
            unit = slice(h * head_dim, (h + 1) * head_dim)
            q, k, v = (x[rows] @ w_qkv[i, unit].t() + b_qkv[i, unit] for i in range(3))
            p = torch.softmax(q @ k.t() / head_dim**0.5, dim=-1)
            p = p if factor is None else p * factor[h, rows, :n].to(p.dtype)
            head = torch.zeros_like(y).index_put(
                (torch.arange(start, start + n, device=x.device),), p @ v @ w_out[unit]
            )
            y = y + (head if z_head is None else z_head[h] * head)
        start += n
    for z in (z_mha, z_hidden):
        y = y if z is None else y * z
    return y


@pytest.mark.parametrize("masks", CORNERS)
def test_value_and_gradients_match_fp64_under_every_mask(device, way, masks):
    lengths = [5, 0, 11, 1, 5]
    inputs = inputs_of(sum(lengths), (4, 8, 29), masks, device)
    assert_matches(op_of(lengths, 8, device), partial(plain, lengths=lengths, head_dim=8), inputs)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_value_and_gradients_match_fp64_at_every_length(device, way, lengths):
    inputs = inputs_of(sum(lengths), (3, 8, 24), "all kinds", device)
    assert_matches(op_of(lengths, 8, device, slack=2), partial(plain, lengths=lengths, head_dim=8), inputs)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_value_and_gradients_match_fp64_at_every_size(device, way, size):
    lengths = [5, 12]
    inputs = inputs_of(17, size, "all kinds", device)
    assert_matches(op_of(lengths, size[1], device), partial(plain, lengths=lengths, head_dim=size[1]), inputs)


@pytest.mark.parametrize("masks", ["no mask", "all kinds", "one unit"])
def test_dropout_is_the_counters_in_value_and_gradients(device, way, masks):
    """The oracle draws its own mask from the definition of the element's index."""
    lengths, n_heads, longest = [5, 0, 11, 1, 10], 4, 13
    state = torch.tensor([STATE, STATE[::-1]], device=device).t()[:, 0]  # every other number of its memory
    u = counter_uniform(state, (n_heads, sum(lengths), longest)).double()
    factor = (u >= 0.3) / (1 - 0.3)
    inputs = inputs_of(sum(lengths), (n_heads, 8, 29), masks, device)
    op = op_of(lengths, 8, device, slack=2, dropout_p=0.3, dropout_state=state)
    assert_matches(op, partial(plain, lengths=lengths, head_dim=8, factor=factor), inputs)


LONG = [130, 3, 300, 128, 129]  # more queries than are taken at a time, exactly as many, one more


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_every_instruction_set(isa, dropout_p):
    n_heads, longest = 3, max(LONG)
    state = torch.tensor(STATE)
    factor = None
    if dropout_p:
        factor = (counter_uniform(state, (n_heads, sum(LONG), longest)).double() >= dropout_p) / (1 - dropout_p)
    op = op_of(LONG, 7, "cpu", dropout_p=dropout_p, dropout_state=state)
    formula = partial(plain, lengths=LONG, head_dim=7, factor=factor)
    assert_matches(op, formula, inputs_of(sum(LONG), (n_heads, 7, 21), "all kinds", "cpu"))


@pytest.mark.parametrize("lengths", [[5, 0, 11, 1, 5], [31, 33, 32, 2, 33, 30], [130]], ids=str)
def test_groups_of_sequences_give_the_same_without_the_compiled_core(monkeypatch, lengths):
    monkeypatch.setattr(gathered, "is_compiled", lambda x: False)
    state, n_tokens = torch.tensor(STATE), sum(lengths)
    factor = (counter_uniform(state, (4, n_tokens, max(lengths))).double() >= 0.3) / 0.7
    op = op_of(lengths, 8, "cpu", dropout_p=0.3, dropout_state=state)
    formula = partial(plain, lengths=lengths, head_dim=8, factor=factor)
    assert_matches(op, formula, inputs_of(n_tokens, (4, 8, 29), "all kinds", "cpu"))


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(monkeypatch, threads):
    op = op_of(LONG, 16, "cpu", dropout_p=0.1, dropout_state=torch.tensor(STATE))
    inputs, dy = inputs_of(sum(LONG), (3, 16, 40), "all kinds", "cpu"), torch.randn(sum(LONG), 40)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    want, want_grads = gradients(op, inputs, torch.float32, dy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    got, got_grads = gradients(op, inputs, torch.float32, dy)
    assert torch.equal(got, want)
    assert all(torch.equal(got_grads[name], want_grads[name]) for name in want_grads)


def test_large_scores_neither_overflow_nor_lose_the_softmax():
    """Scores of thousands: exp of them is infinite, and beside the largest all others are nothing."""
    inputs = inputs_of(9, (2, 8, 24), "no mask", "cpu")
    inputs["w_qkv"] *= 30.0
    y = op_of([9], 8, "cpu")(**inputs)
    want = plain(**{n: t if t is None else t.double() for n, t in inputs.items()}, lengths=[9], head_dim=8)
    torch.testing.assert_close(y.double(), want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))


@pytest.mark.parametrize("masters", [False, True], ids=["bf16 weights", "fp32 weights"])
def test_bf16_is_no_worse_than_eager(device, backend, masters):
    lengths = [5, 0, 40, 1]
    inputs = inputs_of(46, (3, 32, 64), "all live", device)
    half = {name: t.bfloat16() for name, t in inputs.items()}
    widened = {name: t.float() for name, t in half.items()}
    dy = torch.randn(46, 64, device=device).bfloat16()
    formula = partial(plain, lengths=lengths, head_dim=32)
    want, want_grads = gradients(formula, widened, torch.float64, dy)
    eager, eager_grads = gradients(formula, widened, torch.bfloat16, dy)
    wide = {"w_qkv", "b_qkv", "w_out", "b_out", "z_head", "z_mha", "z_hidden"} if masters else set()
    leaves = {name: (t.float() if name in wide else t.clone()).requires_grad_() for name, t in half.items()}
    got = op_of(lengths, 32, device)(**leaves)
    assert_no_worse_than_eager(got, eager, want)
    for name, grad in zip(leaves, torch.autograd.grad(got, list(leaves.values()), dy), strict=True):
        assert grad.dtype == leaves[name].dtype
        assert_no_worse_than_eager(grad.bfloat16(), eager_grads[name], want_grads[name], name=name)


def test_dead_heads_are_never_computed():
    """A weight row that is not a number shows itself in every product that it enters."""
    inputs = inputs_of(200, (4, 8, 29), "all kinds", "cpu")
    dead = (inputs["z_head"] == 0).repeat_interleave(8)
    for name, rows in (("w_qkv", (slice(None), dead)), ("b_qkv", (slice(None), dead)), ("w_out", dead)):
        inputs[name][rows] = float("nan")
    y, grads = gradients(op_of([100, 100], 8, "cpu"), inputs, torch.float32, torch.randn(200, 29))
    assert y.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads.values())
    assert not grads["w_qkv"][:, dead].any() and not grads["w_out"][dead].any()


def test_dead_layer_touches_nothing():
    inputs = inputs_of(9, (4, 8, 29), "dead layer", "cpu")
    inputs = {name: t if name == "z_mha" else torch.full_like(t, float("nan")) for name, t in inputs.items()}
    y, grads = gradients(op_of([4, 5], 8, "cpu"), inputs, torch.float32, torch.randn(9, 29))
    assert not y.any()
    assert not any(grad.any() for grad in grads.values())


def test_workspaces_of_the_gathered_backend_are_prefixes():
    inputs = inputs_of(200, (4, 8, 29), "one unit", "cpu")
    x, w_qkv, b_qkv, w_out, b_out, *masks = inputs.values()
    weights = (x, w_qkv, b_qkv, w_out, b_out)
    _, qkv, context, lse, _ = gathered.forward(*weights, bounds([100, 100], "cpu"), 100, 8, *masks, 0.0, None)
    assert (qkv.shape, context.shape, lse.shape) == ((200 * 96,), (200 * 32,), (200 * 4,))
    for workspace, used in ((qkv, 200 * 24), (context, 200 * 8)):
        assert workspace[:used].isfinite().all() and workspace[used:].isnan().all()  # torch.empty gives NaN in tests


def test_sequences_do_not_see_one_another(device, backend):
    inputs = inputs_of(12, (3, 8, 24), "no mask", device)
    y = op_of([5, 7], 8, device)(**inputs)
    changed = {**inputs, "x": torch.cat([inputs["x"][:5], torch.randn(7, 24, device=device)])}
    assert torch.equal(op_of([5, 7], 8, device)(**changed)[:5], y[:5])


def test_compiles_without_graph_break(device, backend):
    inputs, lengths = inputs_of(16, (3, 8, 24), "all kinds", device), [5, 0, 11]
    state = torch.tensor(STATE, device=device)
    op = op_of(lengths, 8, device, dropout_p=0.1, dropout_state=state)
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    dy = torch.randn(16, 24, device=device)
    want, want_grads = gradients(op, inputs, torch.float32, dy)
    got, got_grads = gradients(compiled, inputs, torch.float32, dy)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grads, want_grads)


@pytest.mark.parametrize("masks", ["no mask", "all live"])
def test_registered_op_obeys_pytorch_contract(device, backend, masks):
    inputs = inputs_of(7, (2, 4, 8), masks, device)
    x, w_qkv, b_qkv, w_out, b_out, *z = (t if t is None else t.requires_grad_() for t in inputs.values())
    sizes, dropout = (bounds([3, 4], device), 5, 4), (0.2, torch.tensor(STATE, device=device))
    args = (x, w_qkv, b_qkv, w_out, b_out, *sizes, *z, *dropout)
    torch.library.opcheck(torch.ops.cofi_kernels.masked_attention.default, args)
    with torch.no_grad():
        saved = torch.ops.cofi_kernels.masked_attention.default(*args)[1:]
        args = (torch.randn_like(x), x.detach(), w_qkv.detach(), w_out.detach(), b_out.detach())
        z = (t if t is None else t.detach() for t in z)
    torch.library.opcheck(
        torch.ops.cofi_kernels.masked_attention_backward.default, (*args, *sizes, *z, *dropout, *saved)
    )


def test_reference_backward_is_the_gradient_in_fp64():
    inputs = {name: t.double() for name, t in inputs_of(5, (2, 3, 4), "all live", "cpu").items()}
    args = tuple(t.requires_grad_() for t in inputs.values())
    op = op_of([2, 3], 3, "cpu", dropout_p=0.3, dropout_state=torch.tensor(STATE))
    with force_backend("reference"):
        assert torch.autograd.gradcheck(lambda *args: op(**dict(zip(inputs, args, strict=True))), args)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tokens": ({"x": torch.zeros(3)}, ValueError, r"x must have shape \(tokens, hidden\), got \(3,\)"),
    "integers": ({"x": torch.zeros(5, 24).int()}, TypeError, "x must be one of .* got torch.int32"),
    "qkv": ({"w_qkv": torch.zeros(24, 24)}, ValueError, r"w_qkv must have shape \(3, 24, 24\), got \(24, 24\)"),
    "rows": ({"w_out": torch.zeros(20, 24)}, ValueError, "w_out must have a multiple of head_dim = 8 rows, got 20"),
    "dtype": ({"b_out": torch.zeros(24).half()}, TypeError, "b_out must have the dtype of w_qkv, .* got torch.float16"),
    "heads": ({"z_head": torch.zeros(24)}, ValueError, r"z_head must have shape \(3\), got \(24,\)"),
    "layer": ({"z_mha": torch.zeros(1)}, ValueError, r"z_mha must have shape \(\), got \(1,\)"),
    "head dim": ({"head_dim": 0}, ValueError, "head_dim must be positive, got 0"),
    "long bounds": ({"cu_seqlens": torch.tensor([0, 5])}, TypeError, "cu_seqlens must be one of torch.int32, got"),
    "no bounds": ({"cu_seqlens": torch.zeros(0).int()}, ValueError, "must hold at least the leading 0"),
    "end": ({"cu_seqlens": torch.tensor([0, 4]).int()}, ValueError, "start at 0 and end at 5 tokens, got 0 and 4"),
    "step back": ({"cu_seqlens": torch.tensor([0, 6, 5]).int(), "max_seqlen": 6}, ValueError, "a step of -1"),
    "too short": ({"max_seqlen": 4}, ValueError, "max_seqlen must be at least the longest sequence, 5, got 4"),
    "negative": ({"max_seqlen": -1}, ValueError, "max_seqlen must not be negative, got -1"),
    "p": ({"dropout_p": 1.0}, ValueError, r"dropout_p must be in \[0.0, 1.0\), got 1.0"),
    "no state": ({"dropout_p": 0.1}, ValueError, "dropout_state must be given where dropout_p > 0, got None and 0.1"),
    "state": ({"dropout_state": torch.zeros(2)}, TypeError, "dropout_state must be one of torch.int64"),
}


@pytest.mark.parametrize("change, error, message", BAD.values(), ids=BAD)
def test_rejects_wrong_arguments(change, error, message):
    sizes = {"cu_seqlens": bounds([5], "cpu"), "max_seqlen": 5, "head_dim": 8}
    with pytest.raises(error, match=message):
        masked_attention(**{**inputs_of(5, (3, 8, 24), "all kinds", "cpu"), **sizes, **change})


def test_reference_and_gathered_take_the_same_arguments():
    """They are called by position."""
    assert list(reference.forward.__annotations__) == list(gathered.forward.__annotations__)
    assert list(reference.backward.__annotations__) == list(gathered.backward.__annotations__)
