"""Learning rates of the weights that fit the student, where neither a flag nor the recipe names one."""

from __future__ import annotations

import dataclasses
from typing import Any

from cofi.train.config import SETTLED_BY_STUDENT, TrainConfig

# found on 384 hidden dims (docs/tried.md): 1e-4 is behind by 5 points on CoLA at 95 %, 1e-3 by 2
SMALL_RATE = 3e-4
# of larger students nothing was tried: five times the paper's rate, as there are a tenth of its epochs
LARGE_RATE = 1e-4
SMALL_HIDDEN = 512


def settle_rates(config: TrainConfig, hidden_size: int) -> TrainConfig:
    """`config` for a student of `hidden_size` hidden dims: with a rate for each that it leaves open."""
    rate = SMALL_RATE if hidden_size <= SMALL_HIDDEN else LARGE_RATE
    settled: dict[str, Any] = {name: rate for name in SETTLED_BY_STUDENT if getattr(config, name) is None}
    return dataclasses.replace(config, **settled)
