"""What a one-shot method may look at, and the budget it must keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cofi.errors import UserError
from cofi.masks import Masks, ModelShape

Gradients = dict[str, Tensor]  # of losses in the masks of heads (..., L, H) and intermediate dims (..., L, I)


@dataclass(frozen=True)
class Evidence:
    """A model before it is cut.

    sparsity:  share of the prunable weights that must go at least, by the counter of `cofi.masks.sparsity`
    gradients: goes over training examples, a batch at a time, those of each on its own: (B, L, H) and (B, L, I)
    """

    shape: ModelShape
    sparsity: float
    gradients: Callable[[], Iterator[Gradients]]

    @property
    def budget(self) -> int:
        """Weights that may stay."""
        return int((1 - self.sparsity) * self.shape.prunable_size)

    def mean(self, measure: Callable[[Tensor], Tensor]) -> Gradients:
        """Mean of a measure of the gradients over the examples, by mask kind."""
        total: Gradients = {}
        count = 0
        for gradients in self.gradients():
            count += len(gradients["head"])
            for kind, gradient in gradients.items():
                total[kind] = total.get(kind, torch.zeros_like(gradient[0])) + measure(gradient).sum(0)
        return {kind: value / count for kind, value in total.items()}


def whole_layers(shape: ModelShape, layers: Iterable[int]) -> Tensor:
    """(L, 1): 1 for the given layers, 0 for the others."""
    kept = torch.zeros(shape.n_layers, 1)
    kept[list(layers)] = 1.0
    return kept


def cannot_reach(method: str, evidence: Evidence, most: float) -> UserError:
    """A method that leaves parts of the model alone has a limit."""
    return UserError(f"--method {method} reaches at most sparsity {most:.3f} here, --sparsity asks {evidence.sparsity}")


def with_empty_sublayers_cut(z_head: Tensor, z_int: Tensor, z_hidden: Tensor | None = None) -> Masks:
    """Masks in which a sublayer without units is gone, its bias and LayerNorm too. z_head (L, H), z_int (L, I)."""
    z_mha, z_ffn = (torch.ones_like(z[:, 0]) for z in (z_head, z_int))
    return Masks(z_head, z_int, z_hidden, z_mha, z_ffn).without_empty_sublayers()
