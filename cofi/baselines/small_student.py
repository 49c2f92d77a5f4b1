"""A fixed small student of TinyBERT's shape (Jiao et al. 2020): four layers, every width cut by the same share.

It starts from the teacher as far as that has a place for it: evenly spaced layers, and of each width the first units,
which is no better than any other choice. Its embeddings must be trained (--no-freeze-embeddings), as they lose dims.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofi.baselines.evidence import Evidence, whole_layers, with_empty_sublayers_cut
from cofi.masks import Masks, evenly_spaced

LAYERS = 4


def small_student(evidence: Evidence) -> Masks:
    """Widths such that the weights of the layers just fit the budget."""
    shape = evidence.shape
    layers = min(LAYERS, shape.n_layers)
    dense = layers * (shape.n_heads * shape.head_weights + shape.d_int * shape.int_weights)
    share = min(1.0, math.sqrt(evidence.budget / dense))  # of the widths; two of them multiply in every weight
    heads, dims = max(1, int(share * shape.n_heads)), max(1, int(share * shape.d_int))
    hidden = evidence.budget // (layers * (4 * shape.head_dim * heads + 2 * dims))  # takes up what rounding has left
    kept = whole_layers(shape, evenly_spaced(shape.n_layers, layers))
    return with_empty_sublayers_cut(
        kept * _first(heads, shape.n_heads),
        kept * _first(dims, shape.d_int),
        _first(max(1, min(hidden, shape.d_hidden)), shape.d_hidden),
    )


def _first(count: int, size: int) -> Tensor:
    return (torch.arange(size) < count).float()
