"""Small gates that the tests of the masks share."""

import itertools

from cofi.masks import MASK_KINDS, Gates, ModelShape

SHAPE = ModelShape(n_layers=2, n_heads=3, head_dim=2, d_hidden=6, d_int=7)
SUBSETS = [kinds for n in range(1, len(MASK_KINDS) + 1) for kinds in itertools.combinations(MASK_KINDS, n)]


def spread_gates(kinds="all", seed=0, std=2.5) -> Gates:
    """Gates all over the range, open and closed."""
    return Gates(SHAPE, kinds, init_means=dict.fromkeys(MASK_KINDS, 0.0), init_std=std, seed=seed)
