"""How a target binds the gates: what the Lagrangian counts, and which masks are delivered."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cofi.masks.fitting import Shifts, fit
from cofi.masks.gates import Gates
from cofi.masks.masks import Masks
from cofi.masks.target import PruningTarget

COUNTS = ("expected", "kept")


@dataclass(frozen=True)
class Constraint:
    """A target, and which of two sizes is held to it.

    counts: "expected", of the sampled masks (the paper), or "kept", of the deterministic masks, which are exported.
    epsilon: how far below the target's goal a state may be and still count

    The two sizes differ: a sublayer of keep probability 0.4 counts 0.4 of its cost in the one and nothing in the other,
    since a vector of n gates keeps round(sum of probabilities). At an expected sparsity of 0.80 some 15 % are left
    instead of 20 %. "kept" gives the Lagrangian the size of the deterministic masks with the gradient of the expected
    one (straight through: rounding has none), so the multipliers rest only where the exported structure is on target;
    what one step of rounding is too coarse for, `masks` mends with a shift of the gates.
    Raises ValueError for another word or an epsilon outside [0, 1).
    """

    target: PruningTarget
    counts: str = "expected"
    epsilon: float = 0.01

    def __post_init__(self) -> None:
        if self.counts not in COUNTS:
            raise ValueError(f"counts must be one of {', '.join(COUNTS)}, got {self.counts!r}")
        if not 0 <= self.epsilon < 1:
            raise ValueError(f"epsilon must be in [0, 1), got {self.epsilon}")

    def to(self, device: torch.device | str) -> Constraint:
        """The same constraint, its tensors on `device`."""
        return replace(self, target=self.target.to(device))

    def reduction(self, gates: Gates) -> tuple[Tensor, dict[str, Tensor]]:
        """The share of the cost removed, for the Lagrangian, and values to log. Reads nothing on the host."""
        target = self.target
        expected = target.expected(gates.keep_probabilities())
        facts = {f"expected_{target.unit}": target.shown(expected.detach())}
        if self.counts == "expected":
            return expected, facts
        kept = target.of_masks(gates.deterministic().alive())
        facts[f"kept_{target.unit}"] = target.shown(kept)
        return expected + (kept - expected).detach(), facts

    def aim(self, share: float) -> dict[str, float]:
        """What a step aims at, to log."""
        return {f"target_{self.target.unit}": self.target.shown(share)}

    @torch.no_grad()
    def is_met(self, gates: Gates, masks: Masks | None = None) -> bool:
        """Whether the gates have come to the goal, within epsilon; or, where that is what counts, `masks` of them."""
        share = self.reduction(gates)[0]
        if masks is not None and self.counts == "kept":
            share = self.target.of_masks(masks.alive())
        return self.is_met_by(float(share))

    def is_met_by(self, share: float) -> bool:
        """Whether removing this share of the cost is enough."""
        return share >= self.target.goal - self.epsilon

    @torch.no_grad()
    def masks(self, gates: Gates, *, fitted: bool) -> tuple[Masks, Shifts]:
        """The deterministic masks, and the shifts that make them from the gates.

        fitted: bring them to the goal where it is the kept size that counts; the shifts are {} otherwise
        """
        shifts = fit(gates, self.target) if fitted and self.counts == "kept" else {}
        return gates.deterministic(shifts), shifts

    @torch.no_grad()
    def values(self, gates: Gates, masks: Masks) -> dict[str, float]:
        """What the gates are expected to remove and what `masks` do, for an evaluation."""
        target = self.target
        shares = {"expected": target.expected(gates.keep_probabilities()), "kept": target.of_masks(masks.alive())}
        return {f"{name}_{target.unit}": float(target.shown(share)) for name, share in shares.items()}
