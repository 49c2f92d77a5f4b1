"""Compare an op with a plain formula in fp64 under PyTorch's own autograd: its value and every gradient, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cofi_kernels import force_backend, gathering
from cofi_kernels.testing import assert_close_to_fp64

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


def assert_matches(op: Formula, plain: Formula, inputs: Inputs) -> None:
    """`op` in fp32 against `plain` in fp64. Masks, whose names start with z_, have no gradient where they are 0.

    dy leans towards the value: the gradient of a mask that is one number is sum(dy * y) / z, and where that happens to
    cancel, no number of digits is enough for a relative error.
    """
    with torch.no_grad():
        y = plain(**{name: None if t is None else t.double() for name, t in inputs.items()})
    dy = (torch.randn(y.shape, device=y.device) + y / y.square().mean().sqrt().clamp(min=1e-30)).float()
    want, want_grads = gradients(plain, inputs, torch.float64, dy)
    got, got_grads = gradients(op, inputs, torch.float32, dy)
    assert_close_to_fp64(got, want, name="value")
    for name, grad in got_grads.items():
        expected = want_grads[name]
        if name.startswith("z_"):
            expected = torch.where(inputs[name] != 0, expected, 0.0)
        assert grad.dtype == torch.float32 and grad.is_contiguous()
        assert_close_to_fp64(grad, expected, name=f"gradient of {name}")
