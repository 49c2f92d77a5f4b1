"""Heads and intermediate dims of all layers together, by Fisher scores: every layer keeps what its units are worth.

The score of a unit is the mean of (dL/dz)^2 over examples, the diagonal of the empirical Fisher information of its mask
(Kwon et al. 2022), and units are taken by score per weight until the budget is spent. Nothing is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi.baselines.evidence import Evidence, Gradients, with_empty_sublayers_cut
from cofi.masks import Masks, unit_weights


def fisher_scores(evidence: Evidence) -> Gradients:
    """{kind: score of each unit}, of heads (L, H) and intermediate dims (L, I)."""
    return evidence.mean(Tensor.square)


def by_fisher_scores(evidence: Evidence) -> Masks:
    """Raises no error: the budget may be as small as one likes, down to no unit at all."""
    scores, weights = fisher_scores(evidence), unit_weights(evidence.shape)
    worth = torch.cat([scores["head"].ravel(), scores["int"].ravel()]) / weights
    kept = within_budget(worth, weights, evidence.budget)
    z_head, z_int = kept.split([scores["head"].numel(), scores["int"].numel()])
    return with_empty_sublayers_cut(z_head.view_as(scores["head"]), z_int.view_as(scores["int"]))


def within_budget(worth: Tensor, weights: Tensor, budget: int) -> Tensor:
    """1.0 for the units taken in the order of their worth as long as they fit, 0.0 for the others."""
    kept = torch.zeros_like(worth)
    left = budget
    costs = weights.tolist()
    cheapest = min(costs)
    for index in worth.argsort(descending=True, stable=True).tolist():
        if costs[index] <= left:
            kept[index] = 1.0
            left -= costs[index]
        if left < cheapest:
            break
    return kept
