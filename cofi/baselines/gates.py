"""Gates that are open or shut, for methods without hard-concrete gates; training and cutting take them alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from cofi.masks import Gates, Masks, ModelShape


class HardGates(Gates):
    """Every mask is 0 or 1, in training and in evaluation, so the expected size is the size."""

    def __init__(self, shape: ModelShape, kinds: str) -> None:
        super().__init__(shape, kinds, init_means=dict.fromkeys(kinds.split(","), 0.0), init_std=0.0, seed=0)

    @abstractmethod
    def open(self) -> dict[str, Tensor]:
        """{kind: 1.0 where a unit is kept, else 0.0}; gradients in it go to loga."""

    def sample(self, noise: Tensor) -> Masks:
        """The masks; they do not depend on the noise."""
        return Masks.from_kinds(self.open())

    def deterministic(self, shifts: Mapping[str, float] | None = None) -> Masks:
        """The same masks; there is nothing that shifts of log-odds could change."""
        return self.sample(self.loga).detach()

    def keep_probabilities(self) -> dict[str, Tensor]:
        return {kind: z.detach() for kind, z in self.open().items()}

    def clamp_(self) -> None:
        """loga has no range here."""


class FixedGates(HardGates):
    """Gates that were chosen once and are not learned: open where loga is above 0."""

    def __init__(self, shape: ModelShape, masks: Masks | None = None) -> None:
        """masks: of zeros and ones; None leaves the choice to a state that is loaded."""
        super().__init__(shape, "head,int,hidden,mha,ffn")
        self.loga.requires_grad_(False)
        if masks is not None:
            masks.check(shape)
            for kind, view in self.views().items():
                z = masks.by_kind().get(kind)
                view.copy_(torch.ones_like(view) if z is None else torch.where(z != 0, 1.0, -1.0))

    def open(self) -> dict[str, Tensor]:
        return {kind: (loga > 0).to(loga.dtype) for kind, loga in self.views().items()}
