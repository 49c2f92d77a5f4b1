"""Drop whole layers, keep the others as they are (Sajjad et al. 2020; every other one: DistilBERT's start)."""

from __future__ import annotations

from collections.abc import Iterable

from cofi.baselines.evidence import Evidence, cannot_reach, whole_layers, with_empty_sublayers_cut
from cofi.masks import Masks, evenly_spaced


def drop_top(evidence: Evidence) -> Masks:
    """Keep the lowest layers. Raises UserError where not one layer fits the budget."""
    return _keep(evidence, range(_count("drop-top-layers", evidence)))


def drop_every_other(evidence: Evidence) -> Masks:
    """Keep evenly spaced layers, the last one among them. Raises UserError where not one layer fits the budget."""
    return _keep(evidence, evenly_spaced(evidence.shape.n_layers, _count("drop-every-other-layer", evidence)))


def _count(method: str, evidence: Evidence) -> int:
    shape = evidence.shape
    layer = shape.n_heads * shape.head_weights + shape.d_int * shape.int_weights
    count = evidence.budget // layer
    if count == 0:
        raise cannot_reach(method, evidence, 1 - layer / shape.prunable_size)
    return int(min(count, shape.n_layers))


def _keep(evidence: Evidence, layers: Iterable[int]) -> Masks:
    shape = evidence.shape
    kept = whole_layers(shape, layers)
    return with_empty_sublayers_cut(kept.repeat(1, shape.n_heads), kept.repeat(1, shape.d_int))
