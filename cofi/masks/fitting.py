"""Masks that meet a target exactly: the deterministic masks with the gates shifted together.

The more the log-odds of all gates are raised, the more units are kept, in the order the gates have learned. So one
shift chooses the structure, and bisection finds it. A kind whose units are large crosses the target in a leap (a
sublayer may be a fifth of what is left): it is then held on one side of it, and the finer kinds make up the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from cofi.masks.gates import MAX_LOGA, Gates
from cofi.masks.target import PruningTarget

Shifts = dict[str, float]

# kinds by what a unit of theirs costs: after each bisection one more group is held where it is
COARSE_FIRST: tuple[tuple[str, ...], ...] = (("mha", "ffn"), ("head",), ("hidden",), ("int",))
REACH = MAX_LOGA + 15.0  # all kept or none: log-odds at either end of their range are then past the clamps of P(z > 0)
HALVINGS = 24  # of 2 REACH: 2e-6, a twentieth of the distance between 3,072 gates spread over 0.1
CLOSE = 1e-4  # share of the dense cost: near enough not to ask the finer kinds


@dataclass(frozen=True)
class _Choice:
    """Shifts, and how much more than the goal's share their masks remove."""

    shifts: Shifts
    gap: float


@torch.no_grad()
def fit(gates: Gates, target: PruningTarget) -> Shifts:
    """{kind: shift of its gates} for `Gates.deterministic`, whose masks then remove the goal's share, or the nearest.

    Gates that are on target already are not shifted. Reads the device on the host some 30 to 400 times.
    """

    def choose(shifts: Shifts) -> _Choice:
        share = target.of_masks(gates.deterministic(shifts).alive())
        return _Choice(shifts, float(share) - target.goal)

    present = choose(dict.fromkeys(gates.kinds, 0.0))
    if abs(present.gap) <= CLOSE:
        return present.shifts
    return min(present, _nearest(choose, present.shifts, COARSE_FIRST), key=lambda choice: abs(choice.gap)).shifts


def _nearest(choose: Callable[[Shifts], _Choice], held: Shifts, groups: tuple[tuple[str, ...], ...]) -> _Choice:
    """The best choice with the kinds outside `groups` as in `held`. The nearer side of a leap is looked at first."""
    free = [kind for group in groups for kind in group if kind in held]
    sides = sorted(_crossing(choose, held, free), key=lambda choice: abs(choice.gap))
    best = sides[0]
    finer = groups[1:]
    if not any(kind in held for group in finer for kind in group):
        return best
    for side in sides:
        if abs(best.gap) <= CLOSE:
            break
        best = min(best, _nearest(choose, side.shifts, finer), key=lambda choice: abs(choice.gap))
    return best


def _crossing(choose: Callable[[Shifts], _Choice], held: Shifts, free: list[str]) -> tuple[_Choice, _Choice]:
    """One shift of all `free` kinds, on either side of where the gap changes its sign."""

    def shifted(by: float) -> _Choice:
        return choose({**held, **dict.fromkeys(free, by)})

    low, high = -REACH, REACH  # raising the gates keeps more, so the gap falls from `low` to `high`
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if shifted(middle).gap >= 0 else (low, middle)
    return shifted(low), shifted(high)
