"""Masked feed-forward: value and gradients against fp64 under every kind of mask, skipping, registration, arguments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cofi_kernels import force_backend, masked_ffn
from cofi_kernels.masked_ffn import gathered, reference
from cofi_kernels.masked_ffn.activations import ACTIVATIONS
from cofi_kernels.testing import assert_no_worse_than_eager
from tests.kernels.oracle import WAYS, Inputs, assert_matches, gradients, in_way

# (tokens, hidden, intermediate): one token, primes, no unit, no token, a multiple of vector widths
SHAPES = [(1, 5, 7), (37, 31, 97), (13, 24, 0), (0, 24, 17), (64, 64, 256)]
PLAIN_ACTIVATIONS = {
    "gelu": lambda u: 0.5 * u * (1 + torch.erf(u / 2**0.5)),
    "gelu_new": lambda u: 0.5 * u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3))),
    "relu": lambda u: u * (u > 0),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from in_way(request.param, monkeypatch)


def weights(n_tokens: int, n_hidden: int, n_int: int, device: str) -> Inputs:
    return {
        "x": torch.randn(n_tokens, n_hidden, device=device),
        "w_up": torch.randn(n_int, n_hidden, device=device) / n_hidden**0.5,
        "b_up": torch.randn(n_int, device=device),
        "w_down": torch.randn(n_int, n_hidden, device=device) / max(n_int, 1) ** 0.5,
        "b_down": torch.randn(n_hidden, device=device),
    }


def sparse(n: int, live: float, device: str) -> Tensor:
    """A soft mask of which about this share is not 0."""
    return (torch.rand(n, device=device) * 0.9 + 0.1) * (torch.rand(n, device=device) < live)


def one_live(n: int, device: str) -> Tensor:
    z = torch.zeros(n, device=device)
    z[n // 2 : n // 2 + 1] = 0.7
    return z


MASKS = {
    "none": lambda units, hidden, device: {"z_int": None, "z_ffn": None, "z_hidden": None},
    "all kinds": lambda units, hidden, device: {
        "z_int": sparse(units, 0.4, device),
        "z_ffn": torch.tensor(0.6, device=device),
        "z_hidden": sparse(hidden, 0.8, device),
    },
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
