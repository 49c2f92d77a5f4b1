"""Compare an op with a plain formula in fp64 under PyTorch's own autograd: its value and every gradient, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cofi_kernels import force_backend, gathering
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager

# what the masks of the units, of the layer and of the hidden dims are: every way a sublayer can be pruned
CORNERS = {
    "no mask": ("absent", "absent", "absent"),
    "all kinds": ("sparse", "soft", "sparse"),
    "units only": ("sparse", "absent", "absent"),
    "layer only": ("absent", "soft", "absent"),
    "hidden only": ("absent", "absent", "sparse"),
    "units and layer": ("sparse", "soft", "absent"),
    "all live": ("live", "soft", "live"),
    "one unit": ("one", "soft", "sparse"),
    "no unit": ("dead", "soft", "sparse"),
    "dead layer": ("sparse", "dead", "sparse"),
    "no hidden dim": ("sparse", "soft", "dead"),
}

Inputs = dict[str, Tensor | None]
Formula = Callable[..., Tensor]

WAYS = ("reference", "best", "best, units always gathered", "best, units never gathered")


def in_way(way: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Force the reference, or what `gathering` decides about copying live units. For fixtures."""
    if way.endswith("always gathered"):
        monkeypatch.setattr(gathering, "GATHER_COST_TOKENS", 0)
    elif way.endswith("never gathered"):
        monkeypatch.setattr(gathering, "GATHER_COST_TOKENS", float("inf"))
    with force_backend("reference" if way == "reference" else "auto"):
        yield


def mask(kind: str, n: int, device: str) -> Tensor | None:
    """A mask vector (n,) of this kind; what lives is soft, in [0.1, 1)."""
    if kind == "absent":
        return None
    live = {
        "live": torch.ones(n),
        "sparse": (torch.arange(n) % 3 != 1).float(),
        "one": (torch.arange(n) == n // 2).float(),
        "dead": torch.zeros(n),
    }[kind]
    return ((torch.rand(n) * 0.9 + 0.1) * live).to(device)


def corner(name: str, n_units: int, n_hidden: int, device: str) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """z_unit (n_units,), z_layer (), z_hidden (n_hidden,) of an entry of CORNERS."""
    unit, layer, hidden = CORNERS[name]
    z_layer = {"absent": None, "soft": torch.tensor(0.6, device=device), "dead": torch.zeros((), device=device)}[layer]
    return mask(unit, n_units, device), z_layer, mask(hidden, n_hidden, device)


def leaves(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Copies that ask for gradients."""
    return {name: None if t is None else t.detach().to(dtype, copy=True).requires_grad_() for name, t in inputs.items()}


def gradients(run: Formula, inputs: Inputs, dtype: torch.dtype, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The value of `run` and its gradients with respect to the inputs that are there; zeros where none reaches one."""
    copies = leaves(inputs, dtype)
    y = run(**copies)
    given = {name: t for name, t in copies.items() if t is not None}
    grads = torch.autograd.grad(y, list(given.values()), dy.to(dtype), allow_unused=True)
    return y, {
        name: torch.zeros_like(t) if grad is None else grad
        for (name, t), grad in zip(given.items(), grads, strict=True)
    }


def towards(y: Tensor) -> Tensor:
    """A gradient of `y` in fp32 that leans towards it.

    The gradient of a mask that is one number is sum(dy * y) / z, and where that happens to cancel, no number of digits
    is enough for a relative error.
    """
    return (torch.randn(y.shape, device=y.device) + y / y.square().mean().sqrt().clamp(min=1e-30)).float()


def of_live(grads: dict[str, Tensor], inputs: Inputs) -> dict[str, Tensor]:
    """Gradients as the package defines them: masks, whose names start with z_, have none where they are 0."""
    return {
        name: torch.where(inputs[name] != 0, grad, 0.0) if name.startswith("z_") else grad
        for name, grad in grads.items()
    }


def assert_matches(op: Formula, plain: Formula, inputs: Inputs) -> None:
    """`op` in fp32 against `plain` in fp64."""
    with torch.no_grad():
        dy = towards(plain(**{name: None if t is None else t.double() for name, t in inputs.items()}))
    want, want_grads = gradients(plain, inputs, torch.float64, dy)
    got, got_grads = gradients(op, inputs, torch.float32, dy)
    assert_close_to_fp64(got, want, name="value")
    for name, expected in of_live(want_grads, inputs).items():
        assert got_grads[name].dtype == torch.float32 and got_grads[name].is_contiguous()
        assert_close_to_fp64(got_grads[name], expected, name=f"gradient of {name}")


def assert_half_no_worse_than_eager(op: Formula, plain: Formula, inputs: Inputs, *, masters: bool) -> None:
    """`op` on fp16 activations against `plain` in fp64, as far off as `plain` in fp16 may be.

    masters: weights and masks are fp32, of the same values, and so are their gradients
    """
    halves = {name: None if t is None else t.half() for name, t in inputs.items()}
    with torch.no_grad():
        dy = towards(plain(**{name: None if t is None else t.double() for name, t in halves.items()})).half()
    want, want_grads = gradients(plain, halves, torch.float64, dy)
    eager, eager_grads = gradients(plain, halves, torch.float16, dy)
    activations = ("x", "residual") if masters else tuple(halves)
    given = {name: t if t is None or name in activations else t.float() for name, t in halves.items()}
    copies = {name: None if t is None else t.clone().requires_grad_() for name, t in given.items()}
    there = {name: t for name, t in copies.items() if t is not None}
    got = op(**copies)
    grads = dict(zip(there, torch.autograd.grad(got, list(there.values()), dy), strict=True))
    assert_no_worse_than_eager(got, eager, want, name="value")
    want_grads, eager_grads = of_live(want_grads, halves), of_live(eager_grads, halves)
    for name, grad in grads.items():
        assert grad.dtype == there[name].dtype
        assert_no_worse_than_eager(grad.half(), eager_grads[name], want_grads[name], name=f"gradient of {name}")
