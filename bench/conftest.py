"""Contests: an op against its rivals, outputs compared before anything is timed, rounds interleaved.

`pytest bench --benchmark-disable` runs every contestant once and compares: a smoke test, nothing is timed.
`pytest bench --benchmark-enable --bench-results DIR` adds DIR/<device>/<family>.json.
In pytest-benchmark's own table a figure is a round of many calls; the rows of the result files hold one call.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench import measure
from cofi_kernels.testing import FP32_TOLERANCE, relative_error

Run = Callable[[], Any]

ROUNDS = 30

_ROWS: dict[str, list[dict[str, Any]]] = {}  # family -> rows measured in this session


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bench-results", metavar="DIR", help="write what was measured as DIR/<device>/<family>.json")


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = session.config.getoption("--bench-results")
    if not folder or not _ROWS:
        return
    machine = measure.machine()
    name = re.sub(r"[^a-z0-9]+", "-", f"{machine['device']}".lower()).strip("-")
    for family, rows in _ROWS.items():
        path = Path(folder) / name / f"{family}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


@pytest.fixture
def device() -> str:
    return measure.device()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def compiled(benchmark: BenchmarkFixture) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """torch.compile, as a rival. In a smoke run without code generation, which would take minutes."""
    backend = "aot_eager" if benchmark.disabled else "inductor"
    return lambda function: torch.compile(function, backend=backend, dynamic=False)


@pytest.fixture
def contest(benchmark: BenchmarkFixture) -> Callable[..., None]:
    """Compare `ours` with each rival's output, then time them in turns and keep the row.

    contest(family, case, ours, rivals, bytes_moved=..., flops=..., tolerance=...)
    ours, rivals:  functions of no arguments that return a tensor or several
    bytes_moved:   what must be read and written at least; flops: what must be computed, in fp32. The floor is the
                   larger of the two times, at the speed of a copy and of a matrix product just then
    tolerance:     relative error allowed between the outputs; 0 where the bits must agree
    """

    def run(
        family: str,
        case: str,
        ours: Run,
        rivals: dict[str, Run],
        *,
        bytes_moved: int,
        flops: float = 0.0,
        tolerance: float = FP32_TOLERANCE,
    ) -> None:
        for name, rival in rivals.items():
            _assert_same(name, ours(), rival(), tolerance)
        benchmark.group = f"{family}/{case}"
        if benchmark.disabled:
            benchmark.pedantic(ours)
            return
        times = _race(benchmark, ours, rivals)
        floor = bytes_moved / measure.copy_bytes_per_s()
        if flops:
            floor = max(floor, flops / measure.gemm_flops_per_s())
        row = _row(family, case, times, floor)
        benchmark.extra_info.update(row)
        _ROWS.setdefault(family, []).append(row)

    return run


def _assert_same(
    name: str, ours: Tensor | Sequence[Tensor], rival: Tensor | Sequence[Tensor], tolerance: float
) -> None:
    got, want = ([t] if isinstance(t, Tensor) else list(t) for t in (ours, rival))
    for g, w in zip(got, want, strict=True):
        error = relative_error(g, w)
        assert error <= tolerance, f"ours and {name} differ by {error:.1e}, at most {tolerance:.0e} allowed"


def _race(benchmark: BenchmarkFixture, ours: Run, rivals: dict[str, Run]) -> dict[str, list[float]]:
    """Times of each contestant, a round of each before every round of ours: drift of the machine meets all alike."""
    repeats = {name: measure.repeats_for(rival) for name, rival in rivals.items()}
    ours_repeats = measure.repeats_for(ours)
    times: dict[str, list[float]] = {name: [] for name in ("ours", *rivals)}

    def rivals_round() -> None:
        for name, rival in rivals.items():
            times[name].append(measure.seconds(rival, repeats[name]))

    benchmark.pedantic(
        lambda: times["ours"].append(measure.seconds(ours, ours_repeats)), setup=rivals_round, rounds=ROUNDS
    )
    return times


def _row(family: str, case: str, times: dict[str, list[float]], floor: float) -> dict[str, Any]:
    return {
        "family": family,
        "case": case,
        "metric": "time of one call",
        "unit": "s",
        "value": statistics.median(times["ours"]),
        "rivals": {name: statistics.median(values) for name, values in times.items() if name != "ours"},
        "floor": floor,
        "spread": measure.spread(times["ours"]),
    }
