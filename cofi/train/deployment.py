"""The speedup that a latency profile speaks of, measured: both models as they are deployed, on the profile's batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from cofi.measure.speedup import Ratio, measure_ratio
from cofi.models import CompactModel, in_precision
from cofi.profile.profile import Profile
from cofi.train.constraint import rate_to_time_at

TOLERANCE = 0.02  # share of the request that a measured speedup may be off before masks are corrected for it
WITHIN = TOLERANCE / 4  # uncertainty of a measurement that leaves no doubt about that


def measure_as_profiled(
    profile: Profile, dense: CompactModel, small: CompactModel, seconds: float, say: Callable[[str], object]
) -> Ratio:
    """How many times as fast as `dense` `small` is, from packed ids to the head's output, as the profile counts it.

    seconds: for timing, less where the machine is quiet, up to `cofi.measure.rate.PATIENCE` times as many where it is
    in another state than when the profile was measured, or too noisy to tell TOLERANCE; if that does not end, `say`
    takes a warning. A profile of another machine knows nothing of this one's states. Neither model is changed.
    """
    gflops = rate_to_time_at(profile)
    before, after = (deployed(model, profile.precision, on_cpu=profile.on_cpu) for model in (dense, small))
    ratio = measure_ratio(
        before, after, profile.lengths, seconds=seconds, within=WITHIN, at_most=TOLERANCE, gflops=gflops
    )
    if ratio.disturbed:
        say(
            f"[yellow]the machine makes {ratio.gflops:.4g} GFLOP/s in a plain product and made {profile.gflops:.4g} "
            f"when the profile was measured: the measured speedup, {ratio.value:.3g}x, is not the one that the profile "
            "speaks of[/yellow]"
        )
    elif ratio.uncertainty > TOLERANCE:
        say(
            f"[yellow]the measured speedup is known to +-{100 * ratio.uncertainty:.0f} % only after {ratio.rounds} "
            "rounds: something else is running on these cores[/yellow]"
        )
    return ratio


def deployed(model: CompactModel, precision: str, *, on_cpu: bool) -> CompactModel:
    """The model as a profile runs it; the model itself is not changed."""
    if on_cpu:
        return in_precision(copy.deepcopy(model).to("cpu"), precision)  # type: ignore[arg-type]  # see inputs
    return copy.deepcopy(model).to(torch.bfloat16) if precision == "bf16" else model  # type: ignore[arg-type]
