"""Columns of a run's log as arrays, thinned to what a figure can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cofi.report.values import finite

MAX_POINTS = 300


@dataclass(frozen=True)
class Series:
    """A line of a figure: x, y and, where y are means of several steps, the 10th and 90th percentile around them."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def thinned(self) -> bool:
        return bool(np.any(self.low != self.high))


def column(records: Sequence[dict[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values (float64) of the records that have a finite number under `key`."""
    pairs = [(record["step"], value) for record in records if (value := finite(record.get(key))) is not None]
    array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def thin(x: np.ndarray, y: np.ndarray, max_points: int = MAX_POINTS) -> Series:
    """At most `max_points` points: means over consecutive groups of equal size, with their spread."""
    if len(x) <= max_points:
        return Series(x, y, y, y)
    groups = list(zip(np.array_split(x, max_points), np.array_split(y, max_points), strict=True))
    low, high = (np.array([np.percentile(values, q) for _, values in groups]) for q in (10, 90))
    centres, means = (np.array([group[i].mean() for group in groups]) for i in (0, 1))
    return Series(centres, means, low, high)


def by_phase(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Records per phase, phases in order of first appearance."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault(record["phase"], []).append(record)
    return groups
