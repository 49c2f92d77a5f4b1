"""The sparsity constraint as a Lagrangian (Wang et al. 2020; CoFi section 3.1) and the ramp of its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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
    """Target sparsity of a step: linear from `start` at step 0 to `target` at `warmup_steps`, constant from there.

    The same for another cost of which a share is to be removed.
    Raises ValueError unless 0 <= start <= target < 1 and warmup_steps >= 0. No warm-up means `target` from step 0.
    """

    target: float
    start: float = 0.0
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.target < 1:
            raise ValueError(f"target must be in [0, 1), got {self.target}")
        if not 0 <= self.start <= self.target:
            raise ValueError(f"start must be in [0, target = {self.target}], got {self.start}")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps must be at least 0, got {self.warmup_steps}")

    def __call__(self, step: int) -> float:
        """Target sparsity of pruning step `step`, counted from 0 at the start of pruning."""
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        if step >= self.warmup_steps:
            return self.target
        return self.start + (self.target - self.start) * step / self.warmup_steps
