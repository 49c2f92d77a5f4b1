"""Compare an op with a plain formula in fp64 under PyTorch's own autograd: its value and every gradient, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cofi_kernels import force_backend, gathering
from cofi_kernels.testing import assert_close_to_fp64

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


def leaves(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """Copies that ask for gradients."""
    return {
        name: None if t is None else t.detach().to(dtype, copy=True).requires_grad_() for name, t in inputs.items()
    }


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
    """`op` in fp32 against `plain` in fp64. Masks, whose names start with z_, have no gradient where they are 0."""
    with torch.no_grad():
        shape = plain(**{name: None if t is None else t.double() for name, t in inputs.items()}).shape
    dy = torch.randn(shape, device=next(t for t in inputs.values() if t is not None).device)
    want, want_grads = gradients(plain, inputs, torch.float64, dy)
    got, got_grads = gradients(op, inputs, torch.float32, dy)
    assert_close_to_fp64(got, want, name="value")
    for name, grad in got_grads.items():
        expected = want_grads[name]
        if name.startswith("z_"):
            expected = torch.where(inputs[name] != 0, expected, 0.0)
        assert grad.dtype == torch.float32 and grad.is_contiguous()
        assert_close_to_fp64(grad, expected, name=f"gradient of {name}")
