"""What is left of an encoder after pruning, and how many parameters that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cofi.masks.shape import ModelShape


@dataclass(frozen=True)
class Structure:
    """Units kept in each layer. A removed sublayer counts 0 units.

    heads, intermediate: units kept per layer, after the layer masks
    hidden:              hidden dims kept
    mha, ffn:            whether the sublayer exists; one that does with 0 units is its bias and LayerNorm
    """

    heads: tuple[int, ...]
    intermediate: tuple[int, ...]
    hidden: int
    mha: tuple[bool, ...]
    ffn: tuple[bool, ...]

    def to_dict(self) -> dict[str, Any]:
        """The part that results report: heads and intermediate dims per layer, hidden dims."""
        return {"heads": list(self.heads), "intermediate": list(self.intermediate), "hidden": self.hidden}


def kept_parameters(structure: Structure, shape: ModelShape) -> int:
    """Weights left in attention and FFN, biases not counted (official calculate_model_size)."""
    attention = 4 * shape.head_dim * structure.hidden * sum(structure.heads)
    return attention + 2 * structure.hidden * sum(structure.intermediate)


def sparsity(structure: Structure, shape: ModelShape) -> float:
    """1 - kept / prunable parameters. The dense model comes out slightly above 0: biases are prunable, never kept."""
    return 1 - kept_parameters(structure, shape) / shape.prunable_size
