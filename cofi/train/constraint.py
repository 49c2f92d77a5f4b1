"""What a run holds its gates to."""

from __future__ import annotations

from cofi.masks import Constraint, ModelShape, SparsityTarget
from cofi.train.config import TrainConfig


def make_constraint(config: TrainConfig, shape: ModelShape) -> Constraint:
    """The constraint that the settings ask for, on an encoder of `shape`."""
    counts = "expected" if config.constraint == "auto" else config.constraint
    return Constraint(SparsityTarget(shape, config.sparsity), counts, config.sparsity_epsilon)
