"""The activations of `masked_ffn`: one line each.

Every entry has the function, its derivative written out (the definition the kernels reproduce) and PyTorch's own
fused derivative for the backends that run on PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TANH_COEFFICIENT = math.sqrt(2.0 / math.pi)  # gelu_new: 0.5 u (1 + tanh(TANH_COEFFICIENT (u + CUBIC u^3)))
CUBIC = 0.044715


class Activation(NamedTuple):
    function: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]  # (dh, u) -> dh * derivative(u) in one pass


def _gelu_derivative(u: Tensor) -> Tensor:
    cdf = 0.5 * (1.0 + torch.erf(u * math.sqrt(0.5)))
    density = torch.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)
    return cdf + u * density


def _gelu_new_derivative(u: Tensor) -> Tensor:
    tanh = torch.tanh(TANH_COEFFICIENT * (u + CUBIC * u * u * u))
    inner = TANH_COEFFICIENT * (1.0 + 3.0 * CUBIC * u * u)
    return 0.5 * (1.0 + tanh) + 0.5 * u * (1.0 - tanh * tanh) * inner


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(F.gelu, _gelu_derivative, torch.ops.aten.gelu_backward),
    "gelu_new": Activation(
        lambda u: F.gelu(u, approximate="tanh"),
        _gelu_new_derivative,
        lambda dh, u: torch.ops.aten.gelu_backward(dh, u, approximate="tanh"),
    ),
    "relu": Activation(
        torch.relu,
        lambda u: (u > 0).to(u.dtype),
        lambda dh, u: torch.ops.aten.threshold_backward(dh, u, 0),
    ),
}


def get_activation(name: str) -> Activation:
    """Raises ValueError for a name that is not registered, listing those that are."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]
