"""Times of contestants in turns: back to back with all caches warm, alone with L2 emptied, and on the host's clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bench import measure
from bench.gpu.clock import FLUSH_BYTES, WARMUP, Contestant

ROUND_US = 2000.0  # calls of a contestant in a row, so that a short one is not measured by its submission
MOST_CALLS = 32


@dataclass
class Times:
    """Microseconds of a call, one a round.

    warm: calls in a row, as a server makes them: weights and states of the call before may lie in L2
    cold: one call after L2 was overwritten. wall: one call on the host's clock, until the GPU is done
    """

    warm: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(getattr(self, name)), 2) for name in ("warm", "cold", "wall")}

    @property
    def spread(self) -> list[float]:
        return measure.spread(self.warm)


def race(contestants: list[Contestant], rounds: int) -> dict[str, Times]:
    """All contestants in every round: drift of the machine meets all alike."""
    times = {c.name: Times() for c in contestants}
    on_gpu = torch.cuda.is_available()
    flush = torch.empty(FLUSH_BYTES // 4, device="cuda") if on_gpu else None
    calls = {c.name: _calls(c.run) if on_gpu else 1 for c in contestants}
    for round_ in range(rounds + (WARMUP if on_gpu else 0)):
        for contestant in contestants:
            kept = times[contestant.name] if round_ >= WARMUP or not on_gpu else Times()
            kept.wall.append(_wall(contestant.run))
            if flush is None:
                kept.warm.append(kept.wall[-1])
                kept.cold.append(kept.wall[-1])
                continue
            kept.warm.append(_events(contestant.run, calls[contestant.name]))
            flush.zero_()
            kept.cold.append(_events(contestant.run, 1))
    return times


def _calls(run: Callable[[], Any]) -> int:
    return max(1, min(MOST_CALLS, round(ROUND_US / max(_wall(run), 1.0))))


def _wall(run: Callable[[], Any]) -> float:
    measure.drain()
    start = time.perf_counter()
    run()
    measure.drain()
    return (time.perf_counter() - start) * 1e6


def _events(run: Callable[[], Any], calls: int) -> float:
    """One more call goes first, untimed, where several are: the start is then marked while the GPU is busy."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if calls > 1:
        run()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / calls
