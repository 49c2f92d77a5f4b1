"""Monotone, piecewise linear interpolation of measured tables, differentiable in where it is read.

Linear between knots: exact at them, monotone wherever the table is, and its gradient is the cost of one more unit as it
was measured. A smoother curve could dip between two knots, and gates would follow a dip that no machine has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def monotone(values: Tensor) -> Tensor:
    """Nearest to `values` (any dims) of a simple kind that falls along no axis: unchanged where nothing falls.

    The mean of the least non-falling table above and the largest below: a measurement that fell is noise, and the
    mean sides with neither of the two that contradict each other.
    """
    above, below = values, values
    for axis in range(values.dim()):
        above = above.cummax(axis).values
        below = below.flip(axis).cummin(axis).values.flip(axis)
    return (above + below) / 2


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Linear between knots, constant beyond the first and the last.

    x: any shape; knots: (K,) rising, K >= 2; values: (K,)
    returns x's shape, differentiable in x; at a knot with the slope to its right. Reads nothing on the host.
    """
    right = torch.searchsorted(knots, x.detach().contiguous(), right=True).clamp(1, knots.numel() - 1)
    x0, x1, y0, y1 = (torch.take(t, i) for t in (knots, values) for i in (right - 1, right))
    return torch.lerp(y0, y1, ((x - x0) / (x1 - x0)).clamp(0, 1))


@dataclass(frozen=True)
class Curve:
    """values (K,) at knots (K,)."""

    knots: Tensor
    values: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return interpolate(x, self.knots, self.values)

    def to(self, device: torch.device | str) -> Curve:
        return Curve(self.knots.to(device), self.values.to(device))


@dataclass(frozen=True)
class Surface:
    """values (U, V) at rows (U,) and columns (V,), bilinear between."""

    rows: Tensor
    columns: Tensor
    values: Tensor

    def __call__(self, row: Tensor, column: Tensor) -> Tensor:
        """row: any shape, column: 0-dim; returns row's shape."""
        right = torch.searchsorted(self.columns, column.detach().view(1), right=True)
        right = right.clamp(1, self.columns.numel() - 1)
        x0, x1 = (self.columns.index_select(0, i) for i in (right - 1, right))
        y0, y1 = (self.values.index_select(1, i).view(-1) for i in (right - 1, right))
        return interpolate(row, self.rows, torch.lerp(y0, y1, ((column - x0) / (x1 - x0)).clamp(0, 1)))

    def to(self, device: torch.device | str) -> Surface:
        return Surface(self.rows.to(device), self.columns.to(device), self.values.to(device))


def curve(knots: Sequence[float], values: Sequence[float]) -> Curve:
    """Raises ValueError unless there are two or more rising knots with a value each."""
    _check_rising("knots", knots)
    if len(values) != len(knots):
        raise ValueError(f"values must have one entry for each of {len(knots)} knots, got {len(values)}")
    return Curve(_tensor(knots), monotone(_tensor(values)))


def surface(rows: Sequence[float], columns: Sequence[float], values: Sequence[Sequence[float]]) -> Surface:
    """Raises ValueError unless rows and columns rise, two or more each, and values are a row for each of the rows."""
    _check_rising("rows", rows)
    _check_rising("columns", columns)
    if [len(row) for row in values] != [len(columns)] * len(rows):
        raise ValueError(f"values must be {len(rows)} rows of {len(columns)}, got {[len(row) for row in values]}")
    return Surface(_tensor(rows), _tensor(columns), monotone(_tensor(values)))


def _tensor(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _check_rising(name: str, knots: Sequence[float]) -> None:
    if len(knots) < 2 or any(a >= b for a, b in zip(knots, knots[1:], strict=False)):
        raise ValueError(f"{name} must be two or more rising numbers, got {list(knots)}")
