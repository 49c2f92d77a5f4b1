"""Times of contestants in turns: CUDA events around replays of a graph, the L2 emptied before each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Run = Callable[[], Any]

WARMUP = 3
FLUSH_BYTES = 256 << 20  # several times the 50 MB of an H100's L2


@dataclass(frozen=True)
class Contestant:
    """What is run, and whether as a graph: what cannot be captured is launched call by call, and its row says so."""

    name: str
    run: Run
    graphed: bool


def prepare(name: str, run: Run, *, captured: bool = True) -> Contestant:
    """Warm up (compilation, caches) and capture as a graph where there is a GPU and it can be.

    What `run` made while its capture failed, gradients above all, lies in memory that nothing computed: it must start
    without. captured: False where it is launched call by call whether or not it could be captured
    """
    if not torch.cuda.is_available():
        run()
        return Contestant(name, run, False)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            run()
    torch.cuda.synchronize()
    if not captured:
        return Contestant(name, run, False)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            run()
    except RuntimeError:  # it waits for the host somewhere
        torch.cuda.synchronize()
        return Contestant(name, run, False)
    return Contestant(name, graph.replay, True)


def race(contestants: list[Contestant], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant, a call of each a round: drift of the machine meets all alike."""
    if not torch.cuda.is_available():
        return _race_on_cpu(contestants, rounds)
    flush = torch.empty(FLUSH_BYTES // 4, device="cuda")
    marks: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {c.name: [] for c in contestants}
    for round_ in range(rounds + WARMUP):
        for contestant in contestants:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            start.record()
            contestant.run()
            end.record()
            if round_ >= WARMUP:
                marks[contestant.name].append((start, end))
        torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) * 1e-3 for start, end in pairs] for name, pairs in marks.items()}


def _race_on_cpu(contestants: list[Contestant], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {c.name: [] for c in contestants}
    for _ in range(rounds):
        for contestant in contestants:
            start = time.perf_counter()
            contestant.run()
            times[contestant.name].append(time.perf_counter() - start)
    return times
