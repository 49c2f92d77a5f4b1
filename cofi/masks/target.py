"""What pruning aims at: a share of some cost to remove. Parameters here; latency in `cofi.masks.latency`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from cofi.masks.shape import ModelShape
from cofi.masks.sparsity import sparsity_of

TARGET_UNITS = ("sparsity", "speedup")
Value = TypeVar("Value", float, Tensor)


class PruningTarget(ABC):
    """A cost of the encoder and the share of it to remove.

    unit: what the share is shown as in logs ("expected_<unit>", "target_<unit>")
    goal: share of the cost to remove, in [0, 1)
    """

    unit: ClassVar[str]
    goal: float

    @abstractmethod
    def expected(self, kept: Mapping[str, Tensor]) -> Tensor:
        """Share removed where each unit is kept with the given probability: 0-dim fp32, differentiable.

        kept: {kind: probabilities in the kind's shape}; kinds left out are kept. Reads nothing on the host.
        """

    def of_masks(self, alive: Mapping[str, Tensor]) -> Tensor:
        """Share removed by masks: {kind: fp32, 1 where a unit is kept and 0 where it is not}."""
        return self.expected(alive)

    def shown(self, share: Value) -> Value:
        """A share removed, in units of `unit`."""
        return share

    def to(self, device: torch.device | str) -> PruningTarget:
        """The same target, its tensors on `device`."""
        return self


class SparsityTarget(PruningTarget):
    """Remove a share of the encoder's weights.

    Raises ValueError where `sparsity` is not in [0, 1).
    """

    unit = "sparsity"

    def __init__(self, shape: ModelShape, sparsity: float) -> None:
        if not 0 <= sparsity < 1:
            raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
        self.shape, self.goal = shape, sparsity

    def expected(self, kept: Mapping[str, Tensor]) -> Tensor:
        return sparsity_of(kept, self.shape)

    def of_masks(self, alive: Mapping[str, Tensor]) -> Tensor:
        return sparsity_of(alive, self.shape, biases=False)
