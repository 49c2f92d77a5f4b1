"""What a machine gives at the moment: the rate of a product that never changes, read beside all that is timed.

A core that another machine's threads share slows down for seconds, and not everything alike: beside a neighbour a dense
model took 2.35 times as long, a pruned one 1.5 times, the product here 1.35 times (docs/speed.md). So a speedup is that
of one state of the machine, and this tells the states apart. A round counts where the product has the rate of that
state before and after every call: of 479 rounds on a core in use all had a median speedup of 6.8, those with one good
reading 5.25, the middle half within 22 %, those with good ones all around 5.25, within 7 %.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from cofi.measure.timing import GAUGE, MIN_ROUNDS, PAUSE_S, Timing, interleaved, summarize, synchronizer

SIZES = {"cpu": 512, "cuda": 4096}  # of the factors: 2 ms on one core, 3 ms on a large GPU
SLOWER = 0.07  # a machine left alone falls no further behind its own rate: 145 to 158 GFLOP/s, shared 90 to 135
TRUSTED_ROUNDS = 10  # that count, at least, before their quartiles are believed
PATIENCE = 12  # times as long as it would take otherwise a state is waited for: it stays for seconds, seldom a minute


class Gauge:
    """PyTorch's fp32 product of two square matrices with the current threads, to be called and timed."""

    def __init__(self, device: torch.device) -> None:
        size = SIZES.get(device.type, SIZES["cpu"])
        self._a, self._b, self._out = (torch.ones(size, size, device=device) for _ in range(3))
        self._gflop = 2e-9 * size**3

    def __call__(self) -> None:
        torch.mm(self._a, self._b, out=self._out)

    def rate(self, seconds: float) -> float:
        """GFLOP/s where a call takes this long."""
        return self._gflop / seconds


def undisturbed_gflops(device: torch.device, seconds: float) -> float:
    """GFLOP/s of a `Gauge` in the best tenth of `seconds`: what the machine makes when it is left alone for a while."""
    gauge, wait = Gauge(device), synchronizer(device)
    times = interleaved({GAUGE: gauge}, 10_000, 2, seconds=seconds, synchronize=wait)[GAUGE]
    return gauge.rate(statistics.quantiles(times, n=10, method="inclusive")[0])


def is_undisturbed(gflops: float, own: float) -> bool:
    """Whether a machine that makes `own` when it is left alone may be so now; more says that `own` was disturbed."""
    return gflops >= (1 - SLOWER) * own


@dataclass(frozen=True)
class Rounds:
    """Times in seconds of some calls, round by round.

    samples: of the rounds that count; gflops: median rate of the gauge in them; made: rounds in all; disturbed: whether
    fewer than MIN_ROUNDS had the rate that was asked for, so that all of them count
    """

    samples: Mapping[str, Sequence[float]]
    gflops: float
    made: int
    disturbed: bool = False

    @property
    def counted(self) -> int:
        return 0 if self.disturbed else min(map(len, self.samples.values()))

    @property
    def timings(self) -> dict[str, Timing]:
        return {name: summarize(times) for name, times in self.samples.items()}

    @property
    def suffice(self) -> bool:
        """Of calls so long that few rounds are made at all, half of these are enough."""
        return self.counted >= min(TRUSTED_ROUNDS, self.made / 2)

    @classmethod
    def of(cls, samples: Mapping[str, Sequence[float]], gauge: Gauge, gflops: float | None) -> Rounds:
        """From what `interleaved` has made; rounds at that rate all along count, all without it."""
        rates = [gauge.rate(seconds) for seconds in samples[GAUGE]]
        size = len(samples)  # readings of a round: one before each call and one at its end
        beside = [rates[start : start + size] for start in range(0, len(rates), size)]
        chosen = [
            i for i, found in enumerate(beside) if gflops is None or all(is_undisturbed(rate, gflops) for rate in found)
        ]
        disturbed = len(chosen) < MIN_ROUNDS
        if disturbed:
            chosen = list(range(len(beside)))
        counted = {name: [times[i] for i in chosen] for name, times in samples.items() if name != GAUGE}
        return cls(counted, statistics.median(rate for i in chosen for rate in beside[i]), len(beside), disturbed)


def gauged_rounds(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    *,
    seconds: float,
    gflops: float | None = None,
    patience: float | None = None,
    enough: Callable[[Rounds, bool], bool] = lambda found, late: late and found.suffice,
    pause_s: float = PAUSE_S,
) -> Rounds:
    """Time `calls` as `interleaved` does, with a gauge before and after each.

    rounds:   at most, of those that count
    seconds:  for timing, and `patience` times as much where `enough` is not content with what was found at `gflops`
    gflops:   rate of the gauge from which on a round counts; None: from any
    patience: PATIENCE by default
    enough:   asked after every round with what counts so far, and whether `seconds` have passed; by default it is
              content with rounds that `suffice`
    pause_s:  as there
    """
    gauge, began = Gauge(device), time.perf_counter()
    limit = 1.0 if gflops is None else PATIENCE if patience is None else patience

    def ends(samples: Mapping[str, Sequence[float]]) -> bool:
        found, late = Rounds.of(samples, gauge, gflops), time.perf_counter() - began >= seconds
        return found.counted >= rounds or enough(found, late)

    samples = interleaved(
        calls,
        PATIENCE * rounds,
        warmup=1,
        seconds=limit * seconds,
        synchronize=synchronizer(device),
        pause_s=pause_s,
        gauge=gauge,
        enough=ends,
    )
    return Rounds.of(samples, gauge, gflops)
