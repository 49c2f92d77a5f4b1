"""Drop whole layers, keep the others as they are (Sajjad et al. 2020; every other one: DistilBERT's start)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from cofi.baselines.evidence import Evidence, cannot_reach, weights_of_dim, weights_of_head, with_empty_sublayers_cut
from cofi.masks import Masks


def drop_top(evidence: Evidence) -> Masks:
    """Keep the lowest layers. Raises UserError where not one layer fits the budget."""
    return _keep(evidence, range(_count("drop-top-layers", evidence)))


def drop_every_other(evidence: Evidence) -> Masks:
    """Keep evenly spaced layers, the last one among them. Raises UserError where not one layer fits the budget."""
    count, n_layers = _count("drop-every-other-layer", evidence), evidence.shape.n_layers
    return _keep(evidence, (-(-n_layers * (k + 1) // count) - 1 for k in range(count)))


def _count(method: str, evidence: Evidence) -> int:
    shape = evidence.shape
    layer = shape.n_heads * weights_of_head(shape) + shape.d_int * weights_of_dim(shape)
    count = evidence.budget // layer
    if count == 0:
        raise cannot_reach(method, evidence, 1 - layer / shape.prunable_size)
    return int(min(count, shape.n_layers))


def _keep(evidence: Evidence, layers: Iterable[int]) -> Masks:
    shape = evidence.shape
    kept = torch.zeros(shape.n_layers, 1)
    kept[list(layers)] = 1.0
    return with_empty_sublayers_cut(kept.repeat(1, shape.n_heads), kept.repeat(1, shape.d_int))
