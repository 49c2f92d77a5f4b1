"""Measurements as a table for people and as rows for result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from cofi.bench.subjects import COMPACT
from cofi.measure.timing import Timing

FAMILY = "inference"


@dataclass(frozen=True)
class Case:
    """One batch shape, the time each subject took for it, and its work in GFLOP."""

    batch_size: int
    length: int
    timings: dict[str, Timing]
    gflop: dict[str, float]

    @property
    def name(self) -> str:
        return f"{self.batch_size} x {self.length}"

    def throughput(self, subject: str) -> float:
        """Sequences a second."""
        return self.batch_size / self.timings[subject].median_s


def to_rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Two rows a case, latency in ms and throughput in sequences/s; the other subjects are the rivals."""
    rows = []
    for case in cases:
        latency = {name: 1e3 * timing.median_s for name, timing in case.timings.items()}
        throughput = {name: case.throughput(name) for name in case.timings}
        spread = case.timings[COMPACT].spread
        for metric, unit, values in (("latency", "ms", latency), ("throughput", "sequences/s", throughput)):
            rows.append(
                {
                    "family": FAMILY,
                    "case": case.name,
                    "metric": metric,
                    "unit": unit,
                    "value": values[COMPACT],
                    "rivals": {name: value for name, value in values.items() if name != COMPACT},
                    "floor": None,
                    "spread": spread,
                }
            )
    return rows


def to_table(cases: Sequence[Case], source: str, caption: str) -> Table:
    """A section a case, a line a subject; the last column is how many times faster the compact model is."""
    table = Table(title=escape(source), caption=escape(caption), caption_justify="left", box=box.SIMPLE_HEAD)
    table.collapse_padding, table.pad_edge = True, False  # so that it fits 80 columns
    table.add_column("batch x\ntokens")
    table.add_column("model, engine")
    for header in ("ms", "spread", "sequences\na second", "GFLOP/s", "compact\nis faster"):
        table.add_column(header, justify="right")
    for case in cases:
        ours = case.timings[COMPACT].median_s
        for name, timing in case.timings.items():
            table.add_row(
                case.name if name == COMPACT else "",
                escape(name),
                f"{1e3 * timing.median_s:.2f}",
                f"{100 * timing.spread:.0f} %",
                f"{case.throughput(name):,.1f}",
                f"{case.gflop[name] / timing.median_s:,.1f}",
                "" if name == COMPACT else f"{timing.median_s / ours:.2f}\u00d7",
                style="bold" if name == COMPACT else "",
            )
        table.add_section()
    return table
