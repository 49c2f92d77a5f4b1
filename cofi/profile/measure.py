"""Measuring a profile: every size several times over, the passes in turning order."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cofi.masks import LatencyModel, ModelShape, Structure
from cofi.masks.interpolation import curve, surface
from cofi.measure.rate import Gauge, is_undisturbed
from cofi.measure.timing import no_collection, synchronizer, turn
from cofi.profile.parts import Call, Deployment
from cofi.profile.plan import CHECKS, SCALES, dim_knots, head_knots, hidden_knots, sample, uniform
from cofi.profile.profile import Check, Table, Tables

Key = tuple[object, ...]
UNDISTURBED = 3  # times of a point that a machine left alone has taken, before the others are dropped without a loss
MOST_PASSES = 3  # times the passes asked for, where a machine is seldom left alone


@dataclass(frozen=True)
class Point:
    """One size: what it is called, and what makes the call that is timed."""

    key: Key
    prepare: Callable[[], Call]


class Stopwatch:
    """The lower quartile of each point's times over all passes, of those in which the machine was left alone.

    What disturbs a shared machine only ever adds, by bursts that slow a few neighbouring points twofold or more, so the
    median may be one of them; and it adds more to some than to others, so that a table of quartiles alone was 35 % off
    for a structure that it had not seen. The least is not it either: a short call has more luck than a long one, and
    8 % at 5 ms were missing beside 3 % at 41 ms, which a speedup then lacks. A point is made for its turn and dropped
    after it: those of BERT-base held at once would take 8 GB.
    """

    def __init__(self, device: torch.device) -> None:
        self._wait = synchronizer(device)
        self._gauge = Gauge(device)
        self._seconds: dict[Key, list[tuple[float, float]]] = {}  # of a call; of the gauge, the slower one beside it
        self._before = turn(self._gauge, self._wait)

    def time(self, point: Point) -> None:
        call = point.prepare()
        call()  # which packs the weights, or compiles a kernel
        self._wait()
        seconds, after = turn(call, self._wait), turn(self._gauge, self._wait)
        self._seconds.setdefault(point.key, []).append((seconds, max(self._before, after)))
        self._before = after

    def ms(self, *key: object) -> float:
        """Of a point; of all its times where none was undisturbed."""
        times = sorted(self._undisturbed(key) or [seconds for seconds, _ in self._seconds[key]])
        return 1e3 * times[len(times) // 4]

    def gflops(self) -> float:
        """The rate of the machine in the best tenth of all readings."""
        readings = [reading for times in self._seconds.values() for _, reading in times]
        return self._gauge.rate(statistics.quantiles([*readings, min(readings)], n=10, method="inclusive")[0])

    def lacks(self, point: Point, least: int) -> bool:
        """Whether a point has fewer undisturbed times than this."""
        return len(self._undisturbed(point.key)) < least

    def _undisturbed(self, key: Key) -> list[float]:
        own = self.gflops()
        return [seconds for seconds, reading in self._seconds[key] if is_undisturbed(self._gauge.rate(reading), own)]

    def spread(self) -> float:
        """Median over the points of how far the undisturbed times lie apart, as a fraction of the least."""
        found = [self._undisturbed(key) or [seconds for seconds, _ in times] for key, times in self._seconds.items()]
        return statistics.median((max(times) - min(times)) / min(times) for times in found)


def points(deployment: Deployment, shape: ModelShape, seed: int) -> list[Point]:
    """Everything a profile measures in one pass.

    Whole models, the dense one among them, come after every hidden size: each prediction is divided by theirs.
    """
    structures = [uniform(shape, scale) for scale in SCALES] + [sample(shape, scale, seed) for scale in CHECKS]
    whole = [Point(("whole", structure), partial(deployment.whole, structure)) for structure in structures]
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
    """What a profile says of the machine: see there. disturbed: points that the machine was never left alone for."""

    tables: Tables
    checks: list[Check]
    spread: float
    gflops: float
    disturbed: int


def measure(
    deployment: Deployment, shape: ModelShape, passes: int, seed: int, advance: Callable[[int], None]
) -> Measured:
    """Time all points `passes` times, and those again that lack undisturbed times, in as many passes more at most.

    advance: called after each point with the number of all that are to be timed, as far as it is known
    """
    work = points(deployment, shape, seed)
    watch, least = Stopwatch(deployment.device), min(passes, UNDISTURBED)
    with torch.inference_mode(), no_collection():
        total, left = passes * len(work), work
        for index in range(MOST_PASSES * passes):
            if index >= passes:
                left = [point for point in work if watch.lacks(point, least)]
                total += len(left)
            for point in left if index % 2 == 0 else reversed(left):
                watch.time(point)
                advance(total)
    tables = as_tables(watch, shape)
    model = tables.latency_model(shape)
    checks = []
    for structure in (sample(shape, scale, seed) for scale in CHECKS):
        checks.append(Check(structure.to_dict(), model.of_structure(structure), watch.ms("whole", structure)))
    disturbed = sum(watch.lacks(point, 1) for point in work)
    return Measured(tables, checks, watch.spread(), watch.gflops(), disturbed)


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
