"""Timing on shared, noisy machines: interleaved rounds, medians with their spread."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MIN_ROUNDS = 3
GAUGE = "gauge"
PAUSE_S = 0.01  # longer than idle threads of PyTorch and of our kernels spin
# Those of ONNX Runtime spin a million times, 20 to 50 ms: after 10 ms whoever came next was 1.3 to 1.8 times too slow.
RIVAL_PAUSE_S = 0.1
TURN_S = 0.02


@dataclass(frozen=True)
class Timing:
    """Wall-clock time of one call: median, 10th and 90th percentile over the rounds."""

    median_s: float
    p10_s: float
    p90_s: float
    rounds: int

    @property
    def spread(self) -> float:
        """Width from the 10th to the 90th percentile as a fraction of the median."""
        return (self.p90_s - self.p10_s) / self.median_s


def interleaved(
    callables: Mapping[str, Callable[[], object]],
    rounds: int = 20,
    warmup: int = 2,
    *,
    seconds: float | None = None,
    synchronize: Callable[[], object] = lambda: None,
    pause_s: float = PAUSE_S,
    gauge: Callable[[], object] | None = None,
    enough: Callable[[Mapping[str, Sequence[float]]], bool] = lambda samples: False,
) -> dict[str, list[float]]:
    """Seconds a call of each callable takes, round by round, in turns, so that all of them see the machine in the same
    state; every round in another order.

    A turn begins with a pause and a call that is not timed: idle threads of the engine before spin for a while, and on
    as many cores as threads they would take those away from the next. Calls are then timed one by one until the turn
    has lasted TURN_S.

    rounds, warmup: timed rounds, untimed calls of each before them
    seconds:        no new round starts after this long, but MIN_ROUNDS (or `rounds`, if fewer) are always made
    synchronize:    waits until the device has finished; called after every call, its time included
    pause_s:        RIVAL_PAUSE_S where other engines take part
    gauge:          takes a turn before every other and after the last of a round; its samples, as many a round as there
                    are callables and one more, are those of GAUGE
    enough:         asked after every round from MIN_ROUNDS on; no further one is made where it says yes
    Raises ValueError for no callable, rounds < 1, warmup < 0, seconds <= 0 or pause_s < 0.
    """
    if not callables or rounds < 1 or warmup < 0 or (seconds is not None and seconds <= 0) or pause_s < 0:
        raise ValueError(
            "interleaved needs a callable, rounds >= 1, warmup >= 0, seconds > 0 or None and pause_s >= 0, got "
            f"{list(callables)}, {rounds}, {warmup}, {seconds}, {pause_s}"
        )
    for call in callables.values():
        for _ in range(warmup):
            call()
            synchronize()
    order, shuffled = list(callables), random.Random(0)
    calls = {**callables, GAUGE: gauge} if gauge is not None else callables
    samples: dict[str, list[float]] = {name: [] for name in calls}
    with no_collection():
        end = None if seconds is None else time.perf_counter() + seconds
        for done in range(rounds):
            late = end is not None and time.perf_counter() >= end
            if done >= MIN_ROUNDS and (late or enough(samples)):
                break
            for name in order if gauge is None else _beside(order):
                samples[name].append(turn(calls[name], synchronize, pause_s))
            shuffled.shuffle(order)  # nobody always runs in the caches, and beside the idle threads, of one neighbour
    time.sleep(pause_s)  # nor does whatever is timed next
    return samples


def _beside(order: Sequence[str]) -> list[str]:
    """The turns of a round: one of the gauge before each and at the end."""
    return [GAUGE, *(entry for name in order for entry in (name, GAUGE))]


@contextmanager
def no_collection() -> Iterator[None]:
    """Without garbage collection, which would be charged to whichever call it falls into."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def turn(call: Callable[[], object], synchronize: Callable[[], object], pause_s: float = PAUSE_S) -> float:
    """Seconds a call takes: the median of a turn."""
    time.sleep(pause_s)
    call()
    synchronize()
    samples: list[float] = []
    began = time.perf_counter()
    while not samples or time.perf_counter() - began < TURN_S:
        start = time.perf_counter()
        call()
        synchronize()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def summarize(samples_s: Sequence[float]) -> Timing:
    """Median and percentiles (linear between samples) of times in seconds."""
    if len(samples_s) == 1:
        return Timing(samples_s[0], samples_s[0], samples_s[0], 1)
    deciles = statistics.quantiles(samples_s, n=10, method="inclusive")
    return Timing(statistics.median(samples_s), deciles[0], deciles[-1], len(samples_s))


def synchronizer(device: torch.device) -> Callable[[], object]:
    """What waits for `device`: nothing to wait for on a CPU."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
