"""Which layer's state each student layer repeats: the optional argument `source` of layer matching."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check(source: Sequence[int], n_student: int) -> None:
    """Raise ValueError unless each layer has for a source a layer not after it that is its own source."""
    if len(source) != n_student:
        raise ValueError(f"source must have one entry for each of {n_student} student layers, got {len(source)}")
    for j, origin in enumerate(source):
        if not 0 <= origin <= j or source[origin] != origin:
            raise ValueError(f"source[{j}] must be a layer not after {j} that is its own source, got {origin}")


def on_host(source: Tensor | None, n_student: int) -> list[int]:
    """`source` as a list; a tensor must lie on the CPU. Raises ValueError for wrong entries."""
    if source is None:
        return list(range(n_student))
    layers = source.tolist()
    check(layers, n_student)
    return layers


def gathered_factors(dm: Tensor, source: Tensor | None, scale: float | Tensor) -> Tensor:
    """scale times the gradients dm (Lt, Ls), each given to the layer whose state is repeated; nothing is read back."""
    factors = dm * scale
    if source is None:
        return factors
    repeats = source[:, None] == torch.arange(dm.shape[1], device=dm.device)  # (Ls, Ls): j repeats i
    return torch.where(repeats, factors[:, :, None], 0.0).sum(1)
