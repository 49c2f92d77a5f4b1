"""Masked LayerNorm: value and gradients against fp64 under every mask, identity, dropout, registration, arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import counter_uniform, force_backend, masked_layer_norm
from cofi_kernels.masked_layer_norm import blocked, cpu, reference
from cofi_kernels.testing import assert_no_worse_than_eager
from tests.kernels.oracle import Inputs, assert_matches, gradients, mask

EPS = 1e-5
# one token, primes, no token, few dims, multiples of vector widths
SHAPES = [(1, 5), (37, 31), (0, 24), (13, 4), (64, 64)]
HIDDEN = ["absent", "sparse", "live", "dead"]
STATE = [2**33 + 1, 7]


def inputs_of(shape: tuple[int, int], hidden: str, device: str, residual: bool = True) -> Inputs:
    n_hidden = shape[1]
    return {
        "x": torch.randn(shape, device=device),
        "residual": torch.randn(shape, device=device) if residual else None,
        "weight": torch.rand(n_hidden, device=device) + 0.5,
        "bias": torch.randn(n_hidden, device=device),
        "z_hidden": mask(hidden, n_hidden, device),
    }


def plain(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    z_hidden: Tensor | None,
    factor: Tensor | float = 1.0,
    eps: float = EPS,
) -> Tensor:
    """PyTorch's LayerNorm of the kept columns alone. factor: (T, E), what dropout multiplies x with."""
    kept_x = x * torch.as_tensor(factor, dtype=x.dtype, device=x.device)
    v = kept_x if residual is None else kept_x + residual
    if z_hidden is None:
        return torch.nn.functional.layer_norm(v, v.shape[1:], weight, bias, eps)
    kept = z_hidden.nonzero()[:, 0]
    if len(kept) == 0:
        return v * 0.0
    normed = torch.nn.functional.layer_norm(v[:, kept], (len(kept),), weight[kept], bias[kept], eps)
    return torch.zeros_like(v).index_copy(1, kept, normed * z_hidden[kept])


op = partial(masked_layer_norm, eps=EPS)


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("hidden", HIDDEN)
def test_value_and_gradients_match_fp64_under_every_mask(device, backend, hidden, residual):
    assert_matches(op, plain, inputs_of((37, 31), hidden, device, residual))


@pytest.mark.parametrize("hidden", ["absent", "sparse"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_match_fp64_at_every_shape(device, backend, shape, hidden):
    assert_matches(op, plain, inputs_of(shape, hidden, device))


@pytest.mark.parametrize("n_hidden", [1, 31])
def test_one_kept_dim_gives_its_bias(device, backend, n_hidden):
    """A single value is its own mean: what is left is the rounding of terms 1 / sqrt(eps) = 316 times as large."""
    rounding = 1e-6 * EPS**-0.5
    inputs = inputs_of((13, n_hidden), "one", device)
    dy = torch.randn(13, n_hidden, device=device)
    y, grads = gradients(op, inputs, torch.float32, dy)
    want = {
        "bias": dy.sum(0) * inputs["z_hidden"],
        "z_hidden": dy.sum(0) * inputs["bias"] * (inputs["z_hidden"] != 0),
    }
    torch.testing.assert_close(y, (inputs["z_hidden"] * inputs["bias"]).expand_as(y), rtol=0, atol=rounding)
    for name, grad in grads.items():
        expected = want.get(name, torch.zeros_like(grad))
        torch.testing.assert_close(grad, expected, rtol=0, atol=10 * rounding)


@pytest.mark.parametrize("hidden", ["absent", "sparse"])
def test_blocks_of_rows_meet(monkeypatch, hidden):
    """37 rows in blocks of 3: the last is a short one."""
    monkeypatch.setattr(blocked, "BLOCK_ELEMENTS", 3 * 31)
    monkeypatch.setattr(cpu, "forward", blocked.forward)
    monkeypatch.setattr(cpu, "backward", blocked.backward)
    with force_backend("auto"):
        assert_matches(op, plain, inputs_of((37, 31), hidden, "cpu"))
    monkeypatch.undo()
    with force_backend("auto"):  # what was chosen in between is forgotten
        pass


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("hidden", ["absent", "sparse"])
def test_dropout_is_the_counters_in_value_and_gradients(device, backend, hidden, residual):
    state = torch.tensor(STATE, device=device)
    factor = (counter_uniform(state, (37, 31)).double() >= 0.3) / (1 - 0.3)
    run = partial(op, dropout_p=0.3, dropout_state=state)
    assert_matches(run, partial(plain, factor=factor), inputs_of((37, 31), hidden, device, residual))


@pytest.mark.parametrize("hidden", ["absent", "sparse"])
@pytest.mark.parametrize("shape", [(37, 31), (3, 768), (70, 64), (129, 100)], ids=str)
def test_every_instruction_set(isa, shape, hidden):
    """Fewer rows than a piece and more, dims that vectors divide and not; rows start inside the blocks of the noise."""
    state = torch.tensor(STATE)
    factor = (counter_uniform(state, shape).double() >= 0.3) / (1 - 0.3)
    run = partial(op, dropout_p=0.3, dropout_state=state)
    assert_matches(run, partial(plain, factor=factor), inputs_of(shape, hidden, "cpu"))


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_do_not_change_a_bit(monkeypatch, threads):
    run = partial(op, dropout_p=0.1, dropout_state=torch.tensor(STATE))
    inputs, dy = inputs_of((300, 33), "sparse", "cpu"), torch.randn(300, 33)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    want, want_grads = gradients(run, inputs, torch.float32, dy)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    got, got_grads = gradients(run, inputs, torch.float32, dy)
    assert torch.equal(got, want)
    assert all(torch.equal(got_grads[name], want_grads[name]) for name in want_grads)


def test_blocks_without_the_compiled_kernel(monkeypatch):
    """What other dtypes run on, in fp32 against fp64, with and without dropped dims."""
    monkeypatch.setattr(cpu, "forward", blocked.forward)
    monkeypatch.setattr(cpu, "backward", blocked.backward)
    with force_backend("auto"):  # the choice is made anew
        for hidden in HIDDEN:
            assert_matches(op, plain, inputs_of((37, 31), hidden, "cpu"))
    monkeypatch.undo()
    with force_backend("auto"):
        assert_matches(op, plain, inputs_of((37, 31), "sparse", "cpu"))


@pytest.mark.parametrize("place", ["x", "residual"])
def test_dropped_dims_may_hold_anything(place, backend):
    """Outside K nothing is read into a sum: not even an infinity."""
    inputs = inputs_of((13, 31), "sparse", "cpu")
    dead = inputs["z_hidden"] == 0
    want = op(**inputs)
    inputs[place][:, dead] = float("inf")
    y, grads = gradients(op, inputs, torch.float32, torch.randn(13, 31))
    torch.testing.assert_close(y, want, rtol=0, atol=0)
    assert all(grad.isfinite().all() for grad in grads.values())


def test_live_layer_changes_nothing(device, backend):
    z_layer = torch.tensor(0.3, device=device)
    assert_matches(partial(op, z_layer=z_layer), plain, inputs_of((37, 31), "sparse", device))


@pytest.mark.parametrize("dropout_p", [0.0, 0.3])
def test_dead_layer_is_the_identity(device, backend, dropout_p):
    inputs = inputs_of((37, 31), "sparse", device)
    options = {"dropout_p": dropout_p, "dropout_state": torch.tensor(STATE, device=device)}
    run = partial(op, z_layer=torch.zeros((), device=device), **options)
    dy = torch.randn(37, 31, device=device)
    y, grads = gradients(run, inputs, torch.float32, dy)
    assert torch.equal(y, inputs["residual"])
    assert torch.equal(grads.pop("residual"), dy)
    assert not any(grad.any() for grad in grads.values())


def test_statistics_survive_a_large_mean(device, backend):
    """Values around 1000 with a spread of 1: a variance taken as E[v^2] - E[v]^2 would have no digit left."""
    inputs = inputs_of((37, 31), "sparse", device)
    inputs["residual"] += 1000.0
    want = plain(**{name: t.double() for name, t in inputs.items()})
    error = (op(**inputs).double() - want).abs().max() / want.abs().max()
    assert error < 1e-4  # fp32 holds such values to 6e-5 of their spread


@pytest.mark.parametrize("masters", [False, True], ids=["bf16 weights", "fp32 weights"])
def test_bf16_is_no_worse_than_eager(device, backend, masters):
    inputs = inputs_of((64, 96), "live", device)
    half = {name: t.bfloat16() for name, t in inputs.items()}
    dy = torch.randn(64, 96, device=device).bfloat16()
    want, want_grads = gradients(plain, half, torch.float64, dy)
    eager, eager_grads = gradients(plain, half, torch.bfloat16, dy)
    wide = {"weight", "bias", "z_hidden"} if masters else set()
    leaves = {name: (t.float() if name in wide else t.clone()).requires_grad_() for name, t in half.items()}
    got = op(**leaves)
    assert_no_worse_than_eager(got, eager, want)
    for name, grad in zip(leaves, torch.autograd.grad(got, list(leaves.values()), dy), strict=True):
        assert grad.dtype == leaves[name].dtype
        assert_no_worse_than_eager(grad.bfloat16(), eager_grads[name], want_grads[name], name=name)


def test_compiles_without_graph_break(device, backend):
    inputs, dy = inputs_of((37, 31), "sparse", device), torch.randn(37, 31, device=device)
    run = partial(
        op,
        z_layer=torch.tensor(0.3, device=device),
        dropout_p=0.1,
        dropout_state=torch.tensor(STATE, device=device),
    )
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    want, want_grads = gradients(run, inputs, torch.float32, dy)
    got, got_grads = gradients(compiled, inputs, torch.float32, dy)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grads, want_grads)


@pytest.mark.parametrize("residual", [True, False], ids=["residual", "alone"])
@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_registered_op_obeys_pytorch_contract(device, backend, dropout_p, residual):
    inputs = inputs_of((5, 8), "sparse", device, residual)
    tensors = [t if t is None else t.requires_grad_() for t in inputs.values()]
    z_layer = torch.tensor(0.5, device=device) if residual else None
    state = torch.tensor(STATE, device=device)
    forward = torch.ops.cofi_kernels.masked_layer_norm.default
    torch.library.opcheck(forward, (*tensors, z_layer, EPS, dropout_p, state))
    tensors = [t if t is None else t.detach() for t in tensors]
    statistics = forward(*tensors, z_layer, EPS, dropout_p, state)[1:]
    args = (torch.randn(5, 8, device=device), *tensors, z_layer, dropout_p, state, *statistics)
    torch.library.opcheck(torch.ops.cofi_kernels.masked_layer_norm_backward.default, args)


def test_reference_backward_is_the_gradient_in_fp64():
    inputs = {name: t.double() for name, t in inputs_of((5, 6), "live", "cpu").items()}
    args = tuple(t.requires_grad_() for t in inputs.values())
    run = partial(op, dropout_p=0.3, dropout_state=torch.tensor(STATE))
    with force_backend("reference"):
        assert torch.autograd.gradcheck(lambda *args: run(**dict(zip(inputs, args, strict=True))), args)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tokens": ({"x": torch.zeros(3)}, ValueError, r"x must have shape \(tokens, hidden\), got \(3,\)"),
    "residual": ({"residual": torch.zeros(2, 8)}, ValueError, r"residual must have shape \(3, 8\), got \(2, 8\)"),
    "weight": ({"weight": torch.zeros(7)}, ValueError, r"weight must have shape \(8\), got \(7,\)"),
    "dtype": ({"bias": torch.zeros(8).half()}, TypeError, "bias must have the dtype of weight, .* got torch.float16"),
    "mask": ({"z_hidden": torch.zeros(7)}, ValueError, r"z_hidden must have shape \(8\), got \(7,\)"),
    "layer": ({"z_layer": torch.zeros(1)}, ValueError, r"z_layer must have shape \(\), got \(1,\)"),
    "alone": ({"residual": None, "z_layer": torch.zeros(())}, ValueError, "residual must be given where z_layer is"),
    "eps": ({"eps": 0.0}, ValueError, "eps must be positive, got 0.0"),
    "p": ({"dropout_p": -0.1}, ValueError, r"dropout_p must be in \[0.0, 1.0\), got -0.1"),
    "no state": ({"dropout_p": 0.1}, ValueError, "dropout_state must be given"),
}


@pytest.mark.parametrize("change, error, message", BAD.values(), ids=BAD)
def test_rejects_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        masked_layer_norm(**{**inputs_of((3, 8), "sparse", "cpu"), "eps": EPS, **change})


def test_reference_and_blocked_take_the_same_arguments():
    """They are called by position."""
    for backend in (blocked, cpu):
        assert list(reference.forward.__annotations__) == list(backend.forward.__annotations__)
        assert list(reference.backward.__annotations__) == list(backend.backward.__annotations__)
