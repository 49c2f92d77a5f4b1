"""What a reference reaches at any size or speed: its measured points, and straight lines between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cofi.sweep.summary import Group, Mean

Place = Callable[[Group], float | None]  # where a group stands on an axis: its parameters, its speedup
NEAR = 1.02  # methods that aim at one sparsity meet it within a unit: 541,000 and 547,000 weights of 10.6 million


@dataclass(frozen=True)
class Frontier:
    """Points (x, score) by rising x, all x above 0. Between them scores are linear in log x."""

    points: tuple[tuple[float, Mean], ...]

    @classmethod
    def of(cls, groups: Sequence[Group], place: Place, dense: tuple[float, Mean]) -> Frontier:
        """Of the groups that have a place, and of the model before pruning, `dense`."""
        found = [(place(group), group.mean("score")) for group in groups]
        points = [(x, score) for x, score in found if x and score is not None]
        return cls(tuple(sorted([*points, dense], key=lambda point: point[0])))

    def at(self, x: float) -> Mean | None:
        """The score at `x`, with the larger deviation of its two neighbours; None outside of what was measured.

        The outermost points hold within a factor of NEAR beyond them.
        """
        first, last = self.points[0][0], self.points[-1][0]
        if first / NEAR <= x <= last * NEAR:
            x = min(max(x, first), last)
        for (low, below), (high, above) in zip(self.points, self.points[1:], strict=False):
            if low <= x <= high:
                share = 0.0 if low == high else math.log(x / low) / math.log(high / low)
                deviations = [mean.deviation for mean in (below, above) if mean.deviation is not None]
                return Mean(below.value + share * (above.value - below.value), max(deviations, default=None))
        return None


@dataclass(frozen=True)
class Verdict:
    """The reference's score at the same place, and how much better it is than the other method.

    wins: more than both scatter by (more at all where no seeds were repeated); loses: the same the other way round
    """

    reference: Mean
    gain: float
    scatter: float

    @classmethod
    def of(cls, reference: Mean, other: Mean) -> Verdict:
        scatter = math.hypot(reference.deviation or 0.0, other.deviation or 0.0)
        return cls(reference, reference.value - other.value, scatter)

    @property
    def wins(self) -> bool:
        return self.gain > self.scatter

    @property
    def loses(self) -> bool:
        return self.gain < -self.scatter
