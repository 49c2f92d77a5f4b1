"""The speedup that a latency profile speaks of, measured: both models as they are deployed, on the profile's batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from cofi.measure.speedup import Ratio, measure_ratio
from cofi.models import CompactModel, in_precision
from cofi.profile.profile import Profile

TOLERANCE = 0.02  # share of the request that a measured speedup may be off before masks are corrected for it
WITHIN = TOLERANCE / 4  # uncertainty of a measurement that leaves no doubt about that
ATTEMPTS = 3  # what else runs on a machine comes and goes: 14 % uncertain beside other work, 1 % without


def measure_as_profiled(
    profile: Profile, dense: CompactModel, small: CompactModel, seconds: float, say: Callable[[str], object]
) -> Ratio:
    """How many times as fast as `dense` `small` is, from packed ids to the head's output, as the profile counts it.

    seconds: for timing, less where the machine is quiet; where it is too noisy to tell TOLERANCE, as many again, up to
    ATTEMPTS times, and the most certain measurement counts; if that is noisy too, `say` takes a warning. Neither model
    is changed.
    """
    before, after = (deployed(model, profile.precision, on_cpu=profile.on_cpu) for model in (dense, small))
    ratios: list[Ratio] = []
    while len(ratios) < ATTEMPTS and (not ratios or ratios[-1].uncertainty > TOLERANCE):
        ratios.append(measure_ratio(before, after, profile.lengths, seconds=seconds, within=WITHIN))
    best = min(ratios, key=lambda ratio: ratio.uncertainty)
    if best.uncertainty > TOLERANCE:
        say(
            f"[yellow]the measured speedup is known to +-{100 * best.uncertainty:.0f} % only, the best of {ATTEMPTS} "
            "attempts: something else is running on these cores[/yellow]"
        )
    return best


def deployed(model: CompactModel, precision: str, *, on_cpu: bool) -> CompactModel:
    """The model as a profile runs it; the model itself is not changed."""
    if on_cpu:
        return in_precision(copy.deepcopy(model).to("cpu"), precision)  # type: ignore[arg-type]  # see inputs
    return copy.deepcopy(model).to(torch.bfloat16) if precision == "bf16" else model  # type: ignore[arg-type]
