"""The sparsity constraint as a Lagrangian (Wang et al. 2020; CoFi section 3.1) and the ramp of its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_POWERS = {"linear": 1, "cubic": 3}  # of the share of a ramp's steps that is left
RAMPS = tuple(_POWERS)


class Lagrangian(nn.Module):
    """lambda_1 (s - t) + lambda_2 (s - t)^2 with multipliers that start at 0 and are learned by ascent.

    s is the share of a cost that is removed: sparsity, or what `Constraint.reduction` gives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lambda_1 = nn.Parameter(torch.zeros(()))
        self.lambda_2 = nn.Parameter(torch.zeros(()))

    def forward(self, expected_sparsity: Tensor, target: float | Tensor) -> Tensor:
        """The penalty, 0-dim. expected_sparsity s: 0-dim; target t: a number or a 0-dim tensor on the same device."""
        gap = expected_sparsity - target
        return self.lambda_1 * gap + self.lambda_2 * gap.square()


def ascent_optimizer(lagrangian: Lagrangian, lr: float, **options: Any) -> torch.optim.AdamW:
    """AdamW that maximizes the penalty over the multipliers: while s < t, lambda_1 falls and pushes sparsity up.

    No weight decay, which would pull the multipliers back to 0. Put the gates in another optimizer: they minimize.
    options: of AdamW, as `fused` and `capturable`
    """
    return torch.optim.AdamW(lagrangian.parameters(), lr=lr, weight_decay=0.0, maximize=True, **options)


@dataclass(frozen=True)
class SparsityRamp:
    """Target sparsity of a step: from `start` at step 0 to `target` at `warmup_steps`, constant from there.

    target - (target - start) (1 - step / warmup_steps)^p, with p = 1 for the shape "linear" and 3 for "cubic" (Zhu and
    Gupta 2017). The same for another cost of which a share is to be removed. No warm-up means `target` from step 0.
    Raises ValueError unless 0 <= start <= target < 1, warmup_steps >= 0 and shape is one of RAMPS.
    """

    target: float
    start: float = 0.0
    warmup_steps: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.target < 1:
            raise ValueError(f"target must be in [0, 1), got {self.target}")
        if not 0 <= self.start <= self.target:
            raise ValueError(f"start must be in [0, target = {self.target}], got {self.start}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {self.warmup_steps}")
        if self.shape not in RAMPS:
            raise ValueError(f"shape must be one of {', '.join(RAMPS)}, got {self.shape!r}")

    def __call__(self, step: int) -> float:
        """Target sparsity of pruning step `step`, counted from 0 at the start of pruning."""
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        return self._along(step, self.warmup_steps)

    def _along(self, done: float, steps: float) -> float:
        """Target sparsity when `done` steps of a ramp of `steps` are behind."""
        if done >= steps:
            return self.target
        power = _POWERS[self.shape]
        whole = steps**power
        return self.start + (self.target - self.start) * (whole - (steps - done) ** power) / whole


@dataclass(frozen=True)
class SparsityStairs(SparsityRamp):
    """Target sparsity of a step in `rounds` leaps, spread evenly from step 0 to `warmup_steps`.

    Each keeps the same share of what the one before has left: to 0.95 in four leaps is 0.527, 0.776, 0.894, 0.95. One
    leap, or no warm-up, is `target` from step 0.
    Raises ValueError unless rounds >= 1, beside what SparsityRamp does.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")

    @property
    def leaps(self) -> dict[int, float]:
        """{step: target sparsity from this step on}, in order; of leaps at the same step the last counts."""
        last = max(self.rounds - 1, 1)
        shares = [1 - (1 - self.target) ** ((k + 1) / self.rounds) for k in range(self.rounds)]
        shares[-1] = self.target
        return {self.warmup_steps * k // last: share for k, share in enumerate(shares)}

    def _along(self, done: float, steps: float) -> float:
        return [share for step, share in self.leaps.items() if step <= done][-1]
