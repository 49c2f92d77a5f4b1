"""What a forward keeps for its backward, one flat tensor in x's dtype whose layout is the backend's own.

T tokens, I intermediate, E hidden; C = padded(I) columns, of which only the live ones are written.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.unit_products.padding import n_integers, padded

_INTEGER_BYTES = 4


class Workspace(NamedTuple):
    """Of the Triton backend: views of the flat tensor, each at a multiple of 16 elements."""

    derivative: Tensor  # (T, C): act'(u), all that the backward wants of u
    h: Tensor  # (T, C): act(u)
    w_up: Tensor  # (C, E): live rows, cast
    w_down: Tensor  # (C, E): live rows with all masks, cast
    integers: Tensor  # int32: the list of live dims and the counters of `tiling.new_work`


def numel(x: Tensor, n_int: int) -> int:
    """T I on a CPU; on a GPU what the backward would have to make again otherwise, 2 C (T + E) and the list."""
    return x.shape[0] * n_int if x.device.type == "cpu" else triton_numel(x, n_int)


def triton_numel(x: Tensor, n_int: int) -> int:
    n_tokens, n_hidden = x.shape
    integers = padded(n_integers(n_int)) * _INTEGER_BYTES // x.element_size()
    return 2 * padded(n_int) * (n_tokens + n_hidden) + integers


def views(flat: Tensor, n_tokens: int, n_int: int, n_hidden: int) -> Workspace:
    columns = padded(n_int)
    sizes = [n_tokens * columns] * 2 + [columns * n_hidden] * 2
    derivative, h, w_up, w_down, integers = flat.split([*sizes, flat.numel() - sum(sizes)])
    tokens, units = (n_tokens, columns), (columns, n_hidden)
    return Workspace(
        derivative.view(tokens), h.view(tokens), w_up.view(units), w_down.view(units), integers.view(torch.int32)
    )
