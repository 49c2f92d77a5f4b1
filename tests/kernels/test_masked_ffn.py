"""Masked feed-forward: value and gradients against fp64 under every kind of mask, skipping, registration, arguments."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cofi_kernels import force_backend, masked_ffn
from cofi_kernels.masked_ffn import gathered, reference
from cofi_kernels.masked_ffn.activations import ACTIVATIONS
from cofi_kernels.testing import assert_no_worse_than_eager
from tests.kernels.oracle import CORNERS, WAYS, Inputs, assert_matches, corner, gradients, in_way

# (tokens, hidden, intermediate): one token, primes, no unit, no token, multiples of vector widths
SHAPES = [(1, 5, 7), (37, 31, 97), (13, 24, 0), (0, 24, 17), (64, 64, 256)]
PLAIN_ACTIVATIONS = {
    "gelu": lambda u: 0.5 * u * (1 + torch.erf(u / 2**0.5)),
    "gelu_new": lambda u: 0.5 * u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3))),
    "relu": lambda u: u * (u > 0),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from in_way(request.param, monkeypatch)


def inputs_of(shape: tuple[int, int, int], masks: str, device: str) -> Inputs:
    n_tokens, n_hidden, n_int = shape
    z_int, z_ffn, z_hidden = corner(masks, n_int, n_hidden, device)
    return {
        "x": torch.randn(n_tokens, n_hidden, device=device),
        "w_up": torch.randn(n_int, n_hidden, device=device) / n_hidden**0.5,
        "b_up": torch.randn(n_int, device=device),
        "w_down": torch.randn(n_int, n_hidden, device=device) / max(n_int, 1) ** 0.5,
        "b_down": torch.randn(n_hidden, device=device),
        "z_int": z_int,
        "z_ffn": z_ffn,
        "z_hidden": z_hidden,
    }


def plain(
    x: Tensor,
    w_up: Tensor,
    b_up: Tensor,
    w_down: Tensor,
    b_down: Tensor,
    z_int: Tensor | None,
    z_ffn: Tensor | None,
    z_hidden: Tensor | None,
    activation: str = "gelu",
) -> Tensor:
    h = PLAIN_ACTIVATIONS[activation](torch.einsum("te,ie->ti", x, w_up) + b_up)
    y = torch.einsum("ti,ie->te", h if z_int is None else h * z_int, w_down) + b_down
    for z in (z_ffn, z_hidden):
        y = y if z is None else y * z
    return y


@pytest.mark.parametrize("masks", CORNERS)
def test_value_and_gradients_match_fp64_under_every_mask(device, way, masks):
    assert_matches(masked_ffn, plain, inputs_of((37, 31, 97), masks, device))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_value_and_gradients_match_fp64_at_every_shape(device, way, shape):
    assert_matches(masked_ffn, plain, inputs_of(shape, "all kinds", device))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_matches_fp64(device, backend, activation):
    run, formula = partial(masked_ffn, activation=activation), partial(plain, activation=activation)
    assert_matches(run, formula, inputs_of((37, 31, 97), "all kinds", device))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_gradient_of_an_activation_is_its_derivative(activation):
    u, dh = torch.linspace(-8, 8, 1001, dtype=torch.float64), torch.randn(1001, dtype=torch.float64)
    act = ACTIVATIONS[activation]
    torch.testing.assert_close(act.gradient(dh, u), dh * act.derivative(u), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("masters", [torch.bfloat16, torch.float32], ids=["half weights", "fp32 masters"])
def test_half_precision_is_no_worse_than_eager(device, way, masters):
    """bf16 activations under fp32 masks, as gates make them, and weights of either dtype; gradients in each's own."""
    inputs = inputs_of((64, 64, 256), "all kinds", device)
    masks = {name: t for name, t in inputs.items() if name.startswith("z_")}
    half = {name: t.bfloat16() for name, t in inputs.items() if name not in masks}
    widened = {name: t.float() for name, t in {**half, **masks}.items()}
    dy = torch.randn(64, 64, device=device).bfloat16()
    want, want_grads = gradients(plain, widened, torch.float64, dy)
    eager, eager_grads = gradients(plain, widened, torch.bfloat16, dy)
    given = {name: t if name == "x" else t.to(masters) for name, t in half.items()} | masks
    leaf = {name: t.detach().clone().requires_grad_() for name, t in given.items()}
    got = masked_ffn(**leaf)
    got_grads = dict(zip(leaf, torch.autograd.grad(got, list(leaf.values()), dy), strict=True))
    assert_no_worse_than_eager(got, eager, want)
    for name, t in leaf.items():
        live = t != 0 if name in masks else torch.ones_like(t, dtype=torch.bool)
        assert got_grads[name].dtype == t.dtype and not got_grads[name][~live].any()
        expected = eager_grads[name][live], want_grads[name][live]
        assert_no_worse_than_eager(got_grads[name][live].bfloat16(), *expected, name=name)


def test_dead_units_are_never_computed():
    """A weight row that is not a number shows itself in every product that it enters."""
    inputs = inputs_of((200, 31, 97), "all kinds", "cpu")
    dead = inputs["z_int"] == 0
    for name in ("w_up", "b_up", "w_down"):
        inputs[name][dead] = float("nan")
    y, grads = gradients(masked_ffn, inputs, torch.float32, torch.randn(200, 31))
    assert y.isfinite().all()
    assert all(grad.isfinite().all() for grad in grads.values())
    assert all(not grads[name][dead].any() for name in ("w_up", "b_up", "w_down", "z_int"))


def test_dead_layer_touches_nothing():
    inputs = inputs_of((9, 31, 97), "dead layer", "cpu")
    inputs = {name: t if name == "z_ffn" else torch.full_like(t, float("nan")) for name, t in inputs.items()}
    y, grads = gradients(masked_ffn, inputs, torch.float32, torch.randn(9, 31))
    assert not y.any()
    assert not any(grad.any() for grad in grads.values())


def test_workspace_of_the_gathered_backend_is_a_prefix():
    inputs = inputs_of((200, 31, 97), "one unit", "cpu")
    _, workspace = gathered.forward(*inputs.values(), "gelu", True)
    assert workspace.shape == (200 * 97,)
    assert workspace[:200].isfinite().all() and workspace[200:].isnan().all()  # torch.empty gives NaN in tests


def test_accepts_tensors_that_are_not_contiguous(device, backend):
    inputs = inputs_of((37, 31, 97), "all kinds", device)
    strided = {name: t if t.dim() < 2 else t.t().contiguous().t() for name, t in inputs.items()}
    assert not strided["x"].is_contiguous()
    torch.testing.assert_close(masked_ffn(**strided), masked_ffn(**inputs))


def test_compiles_without_graph_break(device, backend):
    inputs = inputs_of((37, 31, 97), "all kinds", device)
    dy = torch.randn(37, 31, device=device)
    compiled = torch.compile(masked_ffn, fullgraph=True, backend="aot_eager")
    want, want_grads = gradients(masked_ffn, inputs, torch.float32, dy)
    got, got_grads = gradients(compiled, inputs, torch.float32, dy)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grads, want_grads)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs), want)


@pytest.mark.parametrize("masks", ["all kinds", "dead layer"])
def test_nothing_is_kept_where_no_backward_comes(device, backend, masks):
    """The teacher's forward, whose workspace would be as large as the memory that it has to write at all."""
    inputs = inputs_of((37, 31, 97), masks, device)
    op = torch.ops.cofi_kernels.masked_ffn.default
    for for_backward in (True, False):
        y, kept = op(*inputs.values(), "gelu", for_backward)
        assert (kept.numel() > 0) == for_backward
        torch.testing.assert_close(y, masked_ffn(**inputs))
    torch.library.opcheck(op, (*inputs.values(), "gelu", False))


@pytest.mark.parametrize("is_wanted", [True, False], ids=["gradients", "no gradients"])
@pytest.mark.parametrize("leaf", ["x", "w_down", "z_ffn"])
def test_a_backward_comes_where_gradients_are_on_and_one_is_asked_for(device, leaf, is_wanted):
    inputs = inputs_of((5, 8, 12), "all kinds", device)
    inputs[leaf].requires_grad_()
    asked = []

    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.cofi_kernels.masked_ffn.default:
                asked.append(args[-1])
            return func(*args, **(kwargs or {}))

    with Calls(), torch.set_grad_enabled(is_wanted):
        masked_ffn(**inputs)
    assert asked == [is_wanted]


@pytest.mark.parametrize("masks", ["no mask", "all live"])
def test_registered_op_obeys_pytorch_contract(device, backend, masks):
    args = [t if t is None else t.requires_grad_() for t in inputs_of((13, 8, 12), masks, device).values()]
    torch.library.opcheck(torch.ops.cofi_kernels.masked_ffn.default, (*args, "gelu", True))
    x, w_up, _, w_down, b_down, *z = (t if t is None else t.detach() for t in args)
    saved = (torch.randn_like(x), x, w_up, w_down, b_down, *z, "gelu", torch.randn(13 * 12, device=device))
    torch.library.opcheck(torch.ops.cofi_kernels.masked_ffn_backward.default, saved)


def test_reference_backward_is_the_gradient_in_fp64():
    inputs = {name: t.double() for name, t in inputs_of((5, 3, 4), "all live", "cpu").items()}
    args = tuple(t.requires_grad_() for t in inputs.values())
    with force_backend("reference"):
        assert torch.autograd.gradcheck(lambda *args: masked_ffn(**dict(zip(inputs, args, strict=True))), args)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "tokens": ({"x": torch.zeros(3)}, ValueError, r"x must have shape \(tokens, hidden\), got \(3,\)"),
    "integers": ({"x": torch.zeros(3, 8, dtype=torch.int32)}, TypeError, "x must be one of .* got torch.int32"),
    "down": ({"w_down": torch.zeros(8, 12)}, ValueError, r"w_down must have shape \(12, 8\), got \(8, 12\)"),
    "dtype": ({"b_up": torch.zeros(12).half()}, TypeError, "b_up must have the dtype of w_up, .*, got torch.float16"),
    "weights": ({"w_up": torch.zeros(12, 8).half()}, TypeError, "w_up must have the dtype of x, .*, got torch.float16"),
    "units": ({"z_int": torch.zeros(11)}, ValueError, r"z_int must have shape \(12\), got \(11,\)"),
    "layer": ({"z_ffn": torch.zeros(1)}, ValueError, r"z_ffn must have shape \(\), got \(1,\)"),
    "mask dtype": ({"z_hidden": torch.zeros(8).half()}, TypeError, "z_hidden must be one of .* got torch.float16"),
    "device": ({"b_down": torch.zeros(8, device="meta")}, ValueError, "x and b_down must share a device, got cpu and"),
    "activation": ({"activation": "swish"}, ValueError, "one of gelu, gelu_new, relu, got 'swish'"),
}


@pytest.mark.parametrize("change, error, message", BAD.values(), ids=BAD)
def test_rejects_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        masked_ffn(**{**inputs_of((3, 8, 12), "all kinds", "cpu"), **change})


def test_reference_and_gathered_take_the_same_arguments():
    """They are called by position."""
    assert list(reference.forward.__annotations__) == list(gathered.forward.__annotations__)
    assert list(reference.backward.__annotations__) == list(gathered.backward.__annotations__)
