"""Measuring a profile: every size several times over, the passes in turning order."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cofi.masks import LatencyModel, ModelShape, Structure
from cofi.masks.interpolation import curve, surface
from cofi.measure.rate import GAUGE, Gauge
from cofi.measure.timing import no_collection, synchronizer, turn
from cofi.profile.parts import Call, Deployment
from cofi.profile.plan import CHECKS, SCALES, dim_knots, head_knots, hidden_knots, sample, uniform
from cofi.profile.profile import Check, Table, Tables

Key = tuple[object, ...]


@dataclass(frozen=True)
class Point:
    """One size: what it is called, and what makes the call that is timed."""

    key: Key
    prepare: Callable[[], Call]


class Stopwatch:
    """The lower quartile of each point's times over all passes.

    What disturbs a shared machine only ever adds, by bursts that slow a few neighbouring points twofold or more, so the
    median may be one of them. The least is not it either: a short call has more luck than a long one, and 8 % at 5 ms
    were missing beside 3 % at 41 ms, which a speedup then lacks. A point is made for its turn and dropped after
    it: those of BERT-base held at once would take 8 GB.
    """

    def __init__(self, device: torch.device) -> None:
        self._wait = synchronizer(device)
        self._seconds: dict[Key, list[float]] = {}

    def time(self, point: Point) -> None:
        call = point.prepare()
        call()  # which packs the weights, or compiles a kernel
        self._wait()
        self._seconds.setdefault(point.key, []).append(turn(call, self._wait))

    def ms(self, *key: object) -> float:
        times = sorted(self._seconds[key])
        return 1e3 * times[len(times) // 4]

    def gflops(self, gauge: Gauge) -> float:
        """The rate of the machine at the times that `ms` says: a quartile as they are."""
        return gauge.rate(1e-3 * self.ms(GAUGE))

    def spread(self) -> float:
        """Median over the points of how far the passes lie apart, as a fraction of the least."""
        return statistics.median((max(times) - min(times)) / min(times) for times in self._seconds.values())


def points(deployment: Deployment, shape: ModelShape, seed: int) -> list[Point]:
    """Everything a profile measures in one pass.

    Whole models, the dense one among them, come after every hidden size: each prediction is divided by theirs. So does
    the gauge, by which later measurements know the state of the machine that all this is of.
    """
    structures = [uniform(shape, scale) for scale in SCALES] + [sample(shape, scale, seed) for scale in CHECKS]
    whole = [Point(("whole", structure), partial(deployment.whole, structure)) for structure in structures]
    whole.append(Point((GAUGE,), partial(Gauge, deployment.device)))
    found: list[Point] = []
    for hidden in hidden_knots(shape):
        found.append(Point(("single", hidden), partial(deployment.single, hidden)))
        found.append(Point(("fixed", hidden), partial(deployment.whole, _least(shape, hidden))))
        found += [Point(("attention", n, hidden), partial(deployment.attention, n, hidden)) for n in head_knots(shape)]
        found += [Point(("ffn", n, hidden), partial(deployment.ffn, n, hidden)) for n in dim_knots(shape)]
        found += whole
    return found


@dataclass(frozen=True)
class Measured:
    """What a profile says of the machine: see there."""

    tables: Tables
    checks: list[Check]
    spread: float
    gflops: float


def measure(deployment: Deployment, shape: ModelShape, passes: int, seed: int, advance: Callable[[], None]) -> Measured:
    """Time all points `passes` times; `advance` is called after each."""
    work = points(deployment, shape, seed)
    watch = Stopwatch(deployment.device)
    with torch.inference_mode(), no_collection():
        for index in range(passes):
            for point in work if index % 2 == 0 else reversed(work):
                watch.time(point)
                advance()
    tables = as_tables(watch, shape)
    model = tables.latency_model(shape)
    checks = []
    for structure in (sample(shape, scale, seed) for scale in CHECKS):
        checks.append(Check(structure.to_dict(), model.of_structure(structure), watch.ms("whole", structure)))
    return Measured(tables, checks, watch.spread(), watch.gflops(Gauge(deployment.device)))


def n_points(deployment: Deployment, shape: ModelShape) -> int:
    return len(points(deployment, shape, 0))


def as_tables(watch: Stopwatch, shape: ModelShape) -> Tables:
    """What was measured as milliseconds of one sublayer, of the fixed part, and of whole models by their parts."""
    hidden = hidden_knots(shape)

    def table(kind: str, units: list[int]) -> Table:
        ms = [[_apart(watch, shape, kind, n, e) for e in hidden] for n in units]
        return Table(units, hidden, ms)

    attention, ffn = table("attention", head_knots(shape)), table("ffn", dim_knots(shape))
    fixed = [max(0.0, watch.ms("fixed", e) - _bias_only(watch, shape, e)) for e in hidden]
    apart = LatencyModel(
        shape,
        surface(attention.units, hidden, attention.ms),
        surface(ffn.units, hidden, ffn.ms),
        curve(hidden, fixed),
        curve([0.0, 1.0], [0.0, 1.0]),
    )
    parts, whole = [0.0], [0.0]  # nothing takes no time
    for structure in (uniform(shape, scale) for scale in SCALES):
        sum_of_parts = float(apart.parts(apart.as_kept(structure)))
        if sum_of_parts > parts[-1]:  # in the noise of a tiny model they may come out equal
            parts.append(sum_of_parts)
            whole.append(watch.ms("whole", structure))
    return Tables(attention, ffn, fixed, parts, whole)


def _apart(watch: Stopwatch, shape: ModelShape, kind: str, units: int, hidden: int) -> float:
    """Milliseconds of one sublayer; what the noise of a tiny one turns negative is nothing."""
    call = watch.ms("single", hidden) - _bias_only(watch, shape, hidden)
    return max(0.0, watch.ms(kind, units, hidden) - call) / shape.n_layers


def _bias_only(watch: Stopwatch, shape: ModelShape, hidden: int) -> float:
    """Milliseconds that an FFN without a unit adds: by those of all layers and of one."""
    more = watch.ms("ffn", 0, hidden) - watch.ms("single", hidden)
    return max(0.0, more / max(1, shape.n_layers - 1))


def _least(shape: ModelShape, hidden: int) -> Structure:
    n = shape.n_layers
    return Structure((0,) * n, (0,) * n, hidden, (False,) * n, (True,) + (False,) * (n - 1))
