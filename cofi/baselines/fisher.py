"""Heads and intermediate dims of all layers together, by Fisher scores: every layer keeps what its units are worth.

The score of a unit is the mean of (dL/dz)^2 over examples, the diagonal of the empirical Fisher information of its mask
(Kwon et al. 2022), and units are taken by score per weight until the budget is spent. Nothing is learned.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi.baselines.evidence import Evidence, weights_of_dim, weights_of_head, with_empty_sublayers_cut
from cofi.masks import Masks


def by_fisher_scores(evidence: Evidence) -> Masks:
    """Raises no error: the budget may be as small as one likes, down to no unit at all."""
    shape = evidence.shape
    scores = evidence.mean(Tensor.square)
    worth = torch.cat([scores["head"].ravel() / weights_of_head(shape), scores["int"].ravel() / weights_of_dim(shape)])
    kept = within_budget(worth, unit_weights(evidence), evidence.budget)
    z_head, z_int = kept.split([scores["head"].numel(), scores["int"].numel()])
    return with_empty_sublayers_cut(z_head.view_as(scores["head"]), z_int.view_as(scores["int"]))


def unit_weights(evidence: Evidence) -> Tensor:
    """Weights of each unit: all heads, then all intermediate dims, layer by layer."""
    shape = evidence.shape
    heads, dims = shape.n_layers * shape.n_heads, shape.n_layers * shape.d_int
    return torch.tensor([weights_of_head(shape)] * heads + [weights_of_dim(shape)] * dims)


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
