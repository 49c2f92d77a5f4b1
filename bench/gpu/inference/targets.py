"""What a time is held against."""

from __future__ import annotations

from bench.gpu.inference.session import MNLI
from bench.gpu.record import Target
from bench.structures import DENSE

TIME_US = {("s95", "1 x 128"): 60.0, ("s95", "8 x 128"): 80.0, ("s95", "32 x 128"): 130.0, ("s95", "128 x 128"): 400.0}
SENTENCES_PER_S = 1e6
GAIN = 12.0


def of_time(structure: str, batch: str, rivals: dict[str, float]) -> Target | None:
    """rivals: their times in us."""
    if (structure, batch) in TIME_US:
        limit = TIME_US[structure, batch]
        return Target(f"{structure}, {batch}: at most {limit:.0f} us", limit)
    if structure in ("s60", "s80") and rivals:
        return Target(f"{structure}, {batch}: never slower than the best rival", min(rivals.values()))
    return None


def of_rate(structure: str, batch: str) -> Target | None:
    if (structure, batch) != ("s95", MNLI):
        return None
    return Target(f"{structure}, {MNLI} lengths: a million sentences a second", SENTENCES_PER_S, at_least=True)


def of_gain() -> Target:
    return Target(f"s95 against {DENSE} in its best rival: {GAIN:.0f}x", GAIN, at_least=True)
