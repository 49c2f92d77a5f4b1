"""Block pruning by movement scores (Lagunas et al. 2021; Sanh et al. 2020), with the blocks that can be cut out.

A block is a head or an intermediate dim. Its score gathers -w dL/dw over its weights, step by step, which is what its
mask's gradient says: the scores are the gates' loga, trained through the threshold as if it were not there. The blocks
with the highest scores that fit the budget of the step are kept; the budget falls along a cubic curve. A kernel
computes nothing for a block that is off, so its score rests until others have fallen below it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from cofi.baselines.evidence import with_empty_sublayers_cut
from cofi.baselines.gates import HardGates
from cofi.masks import ModelShape, SparsityRamp, unit_weights

QUIET = 0.2  # of the ramp, in which scores are gathered and nothing is cut: at first all of them are equal


class MovementGates(HardGates):
    """Keeps the blocks of the highest scores. `target_sparsity` () fp32 is set by the ramp before each step."""

    target_sparsity: Tensor
    weights: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape, "head,int,mha,ffn")
        self.register_buffer("target_sparsity", torch.zeros(()))
        self.register_buffer("weights", unit_weights(shape), persistent=False)

    def open(self) -> dict[str, Tensor]:
        scores = self.loga[: self.weights.numel()]
        order = scores.detach().argsort(descending=True, stable=True)
        budget = (1 - self.target_sparsity) * self.shape.prunable_size
        n_heads = self.shape.n_layers * self.shape.n_heads
        # exact up to 2^53 weights, which fp32 would not be
        costs = self.weights[order].double()
        too_large = (order < n_heads) & (costs.cumsum(0) > budget.double())
        costs = costs.masked_fill(too_large, 0.0)  # behind a head that does not fit, dims still may
        fits = (costs.cumsum(0) <= budget.double()) & ~too_large
        kept = torch.zeros_like(scores).scatter(0, order, fits.to(scores.dtype))
        z = kept + (scores - scores.detach())  # the threshold passes the gradient of z on to the score
        z_head, z_int = z[:n_heads].view(self.shape.n_layers, -1), z[n_heads:].view(self.shape.n_layers, -1)
        return with_empty_sublayers_cut(z_head, z_int).by_kind()


@dataclass(frozen=True)
class MovementRamp(SparsityRamp):
    """Target sparsity of a step, told to the gates as well: `start` for a while, then the ramp in what is left."""

    shape: str = "cubic"
    gates: MovementGates = field(kw_only=True)

    def __call__(self, step: int) -> float:
        quiet = QUIET * self.warmup_steps
        sparsity = self._along(max(0.0, step - quiet), self.warmup_steps - quiet)
        self.gates.target_sparsity.fill_(sparsity)
        return sparsity
