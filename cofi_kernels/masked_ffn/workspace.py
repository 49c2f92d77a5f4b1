"""What a forward keeps for its backward, one flat tensor in x's dtype whose layout is the backend's own.

T tokens, I intermediate, E hidden; C = padded(I) columns, of which only the live ones are written.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from cofi_kernels.unit_products.padding import padded


class Workspace(NamedTuple):
    """Of the Triton backend: views of the flat tensor, each at a multiple of 16 elements."""

    derivative: Tensor  # (T, C): act'(u), all that the backward wants of u
    h: Tensor  # (T, C): act(u)
    w_up: Tensor  # (C, E): live rows, cast
    w_down: Tensor  # (C, E): live rows with all masks, cast


def numel(x: Tensor, n_int: int) -> int:
    """T I on a CPU; on a GPU, where what the backward reads need not be made again, 2 C (T + E)."""
    n_tokens, n_hidden = x.shape
    return n_tokens * n_int if x.device.type == "cpu" else triton_numel(n_tokens, n_int, n_hidden)


def triton_numel(n_tokens: int, n_int: int, n_hidden: int) -> int:
    return 2 * padded(n_int) * (n_tokens + n_hidden)


def views(flat: Tensor, n_tokens: int, n_int: int, n_hidden: int) -> Workspace:
    columns = padded(n_int)
    sizes = [n_tokens * columns] * 2 + [columns * n_hidden] * 2
    derivative, h, w_up, w_down = flat.split(sizes)
    tokens, units = (n_tokens, columns), (columns, n_hidden)
    return Workspace(derivative.view(tokens), h.view(tokens), w_up.view(units), w_down.view(units))
