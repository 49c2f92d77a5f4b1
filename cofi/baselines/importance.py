"""Prune heads, or intermediate dims, by importance: the same number in every layer, the other kind left alone.

The importance of a unit is the mean of |dL/dz| over examples (Michel et al. 2019, equation 2), ranked inside its layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofi.baselines.evidence import Evidence, cannot_reach, with_empty_sublayers_cut
from cofi.masks import Masks


def prune_heads(evidence: Evidence) -> Masks:
    """Raises UserError where the FFNs alone exceed the budget."""
    shape = evidence.shape
    rest = shape.n_layers * shape.d_int * shape.int_weights
    count = _per_layer("prune-heads", evidence, rest, shape.head_weights, shape.n_heads)
    importance = evidence.mean(Tensor.abs)
    return with_empty_sublayers_cut(_best(importance["head"], count), torch.ones_like(importance["int"]))


def prune_ffn(evidence: Evidence) -> Masks:
    """Raises UserError where the attention alone exceeds the budget."""
    shape = evidence.shape
    rest = shape.n_layers * shape.n_heads * shape.head_weights
    count = _per_layer("prune-ffn", evidence, rest, shape.int_weights, shape.d_int)
    importance = evidence.mean(Tensor.abs)
    return with_empty_sublayers_cut(torch.ones_like(importance["head"]), _best(importance["int"], count))


def _per_layer(method: str, evidence: Evidence, rest: int, unit: int, most: int) -> int:
    """Units a layer may keep, of `unit` weights each, beside `rest` weights of the model that stay."""
    if rest > evidence.budget:
        raise cannot_reach(method, evidence, 1 - rest / evidence.shape.prunable_size)
    return min(most, (evidence.budget - rest) // (unit * evidence.shape.n_layers))


def _best(importance: Tensor, count: int) -> Tensor:
    """1 for the `count` most important units of each row."""
    z = torch.zeros_like(importance)
    return z.scatter(1, importance.topk(count, dim=1).indices, 1.0)
