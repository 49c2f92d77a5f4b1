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
    def of(
        cls, groups: Sequence[Group], place: Place, dense: tuple[float, Mean], *, smaller_is_better: bool
    ) -> Frontier:
        """Of the groups that have a place, and of the model before pruning, `dense`, without points that are beaten.

        A point is beaten by one that is at least as good in place and in score: nobody would choose it. It still says
        how far was measured: towards worse places the best score holds up to the worst of them.
        """
        found = [(place(group), group.mean("score")) for group in groups]
        points = [(x, score) for x, score in found if x and score is not None]
        sign = 1 if smaller_is_better else -1
        best_first = sorted([*points, dense], key=lambda point: (sign * point[0], -point[1].value))
        kept = best_first[:1]
        for x, score in best_first[1:]:
            if score.value > kept[-1][1].value:
                kept.append((x, score))
        if best_first[-1][0] != kept[-1][0]:
            kept.append((best_first[-1][0], kept[-1][1]))
        return cls(tuple(kept[::sign]))

    def at(self, x: float) -> Mean | None:
        """The score at `x`; None outside of what was measured.

        The outermost points hold within a factor of NEAR beyond them. The deviation is on the line between those of the
        two neighbours, like the score: the score's own is no larger, whatever their seeds have in common. A neighbour
        without one (a single seed, the dense model) counts as 0.
        """
        first, last = self.points[0][0], self.points[-1][0]
        if first / NEAR <= x <= last * NEAR:
            x = min(max(x, first), last)
        for (low, below), (high, above) in zip(self.points, self.points[1:], strict=False):
            if low <= x <= high:
                return _between(below, above, 0.0 if low == high else math.log(x / low) / math.log(high / low))
        return None


def _between(below: Mean, above: Mean, share: float) -> Mean:
    """The mean that is `share` of the way from `below` to `above`."""
    value = below.value + share * (above.value - below.value)
    if below.deviation is None and above.deviation is None:
        return Mean(value, None)
    low, high = below.deviation or 0.0, above.deviation or 0.0
    return Mean(value, low + share * (high - low))


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
