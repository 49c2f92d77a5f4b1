"""Ways to launch the encoder's sublayers, measured on the GPU they run on: what `plans.py` only predicts.

First every mode with the tiles predicted for it, then every tile of the products of the fastest. What is predicted to
take more than `_HOPELESS` times as long as the best is not tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from cofi_kernels.compact_encoder import plans
from cofi_kernels.compact_encoder.costs import Gpu, Launch, Rows
from cofi_kernels.compact_encoder.graphs import capture_graph
from cofi_kernels.compact_encoder.plans import AttentionPlan, AttentionSize, FfnPlan, FfnSize

_HOPELESS = 4.0
_IN_A_GRAPH, _REPLAYS = 8, 7

Plan = TypeVar("Plan", AttentionPlan, FfnPlan)
# (rows, size of the sublayer, GPU with the cost of a launch) -> its plan; the last as dependent launches favour others
Table = dict[tuple[Rows, Any, Gpu], Any]
Run = Callable[[], None]
Measure = Callable[[Run], float]


def tune_attention(table: Table, at: Rows, size: AttentionSize, gpu: Gpu, run: Run, measure: Measure) -> None:
    """Put the fastest plan into the table that `run`, a call of the sublayer, reads its own from."""
    candidates = plans.attention_candidates(at, size, gpu)
    tried = _hopeful(candidates, lambda plan: plans.attention_launches(plan, at, size, gpu))
    best, us = _fastest(table, (at, size, gpu), tried, run, measure)
    for field in ("project", "out") if best.mode == "context" else ("project",):
        best, us = _better(table, (at, size, gpu), best, us, field, run, measure)


def tune_ffn(table: Table, at: Rows, size: FfnSize, gpu: Gpu, run: Run, measure: Measure) -> None:
    """As `tune_attention`."""
    candidates = plans.ffn_candidates(at, size, gpu)
    tried = _hopeful(candidates, lambda plan: plans.ffn_launches(plan, at, size, gpu))
    best, us = _fastest(table, (at, size, gpu), tried, run, measure)
    for field in ("up", "down") if best.mode == "linear" else ():
        best, us = _better(table, (at, size, gpu), best, us, field, run, measure)


def _hopeful(candidates: Sequence[Plan], launches: Callable[[Plan], list[Launch]]) -> list[Plan]:
    predicted = [plans.total_us(launches(plan)) for plan in candidates]
    return [plan for plan, us in zip(candidates, predicted, strict=True) if us <= _HOPELESS * min(predicted)]


def _fastest(table: Table, key: Any, tried: Sequence[Plan], run: Run, measure: Measure) -> tuple[Plan, float]:
    times = []
    for plan in tried:
        table[key] = plan
        times.append(measure(run))
    us, place = min((us, i) for i, us in enumerate(times))
    table[key] = tried[place]
    return tried[place], us


def _better(
    table: Table, key: Any, best: Plan, us: float, field: str, run: Run, measure: Measure
) -> tuple[Plan, float]:
    """With another tile in `field`, if one is faster."""
    changes: list[dict[str, Any]] = [{field: tile} for tile in plans.LINEAR_TILES if tile != getattr(best, field)]
    others = [best._replace(**change) for change in changes]
    found, other_us = _fastest(table, key, others, run, measure)
    if other_us < us:
        return found, other_us
    table[key] = best
    return best, us


def measure_on(device: torch.device) -> Measure:
    return replayed_us if device.type == "cuda" else called_us


def called_us(run: Run) -> float:
    """On the host's clock: to try the tuning without a GPU."""
    start = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - start)


def replayed_us(run: Run) -> float:
    """Of one of the calls in a graph of several, the least of some replays: compiled, and warm in L2."""

    def several() -> None:
        for _ in range(_IN_A_GRAPH):
            run()

    run()
    graph = capture_graph(several, torch.cuda.Stream())
    times = []
    for _ in range(_REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        graph.replay()  # the start is marked while the GPU is busy
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / _IN_A_GRAPH)
    return min(times)
