"""What a profile measures: sizes of sublayers and of whole models."""

from __future__ import annotations

import random

from cofi.masks import ModelShape, Structure

PANEL = 16  # columns a kernel computes together, at least: 16 floats of AVX-512, 16 of a tensor core's tile
HEADS = (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
DIMS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)  # of the intermediate dims
HIDDEN = (1 / 8, 1 / 2, 3 / 4)  # of the hidden dims
SCALES = (1 / 12, 1 / 6, 1 / 4, 1 / 2, 3 / 4, 1.0)  # of the heads and intermediate dims of a whole model
CHECKS = (0.12, 0.3, 0.6)  # about this much of the units is left in the structures that test the finished table


def head_knots(shape: ModelShape) -> list[int]:
    return [n for n in HEADS if n < shape.n_heads] + [shape.n_heads]


def dim_knots(shape: ModelShape) -> list[int]:
    return [0, *_between_panels(DIMS, shape.d_int), shape.d_int]


def hidden_knots(shape: ModelShape) -> list[int]:
    return [*(_between_panels(HIDDEN, shape.d_hidden) or [1]), shape.d_hidden]


def _between_panels(shares: tuple[float, ...], size: int) -> list[int]:
    """Sizes half a panel below the edge of one.

    A kernel takes whole panels, so that 305 dims cost what 320 do. Through sizes at the edges a line would say the
    least that a size could cost; through the middles it is right on average, and off by half a panel at most.
    """
    edges = (PANEL * round(share * size / PANEL) for share in shares)
    return sorted({edge - PANEL // 2 for edge in edges if PANEL <= edge <= size - PANEL // 2})


def uniform(shape: ModelShape, scale: float) -> Structure:
    """Every layer with this share of its heads and intermediate dims, at least one of each."""
    heads, dims = (max(1, round(scale * size)) for size in (shape.n_heads, shape.d_int))
    n = shape.n_layers
    return Structure((heads,) * n, (dims,) * n, shape.d_hidden, (True,) * n, (True,) * n)


def sample(shape: ModelShape, scale: float, seed: int) -> Structure:
    """A structure of the kind that pruning leaves: sublayers gone, the others of all sizes, a few hidden dims less."""
    draw = random.Random(f"{seed}/{scale}")

    def counts(size: int) -> tuple[int, ...]:
        shares = [0.0 if draw.random() > scale + 0.3 else min(1.0, draw.uniform(0.2, 1.8) * scale) for _ in layers]
        return tuple(round(share * size) for share in shares)

    layers = range(shape.n_layers)
    heads, dims = counts(shape.n_heads), counts(shape.d_int)
    hidden = round(shape.d_hidden * draw.uniform(0.75, 1.0))
    return Structure(heads, dims, max(hidden, 1), tuple(n > 0 for n in heads), tuple(n > 0 for n in dims))
