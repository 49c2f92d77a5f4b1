"""Score against size or speed, a panel a task: the figure of the paper's kind."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from cofi.report.theme import Theme, grid, panels

WIDTH_IN, PANEL_IN = 9.0, 2.5
COLUMNS = 3
MARKERS = "osD^vPX*"
LEGEND_COLUMNS = 4
MAX_TICKS = 6


@dataclass(frozen=True)
class Mark:
    """One model (or the mean of several seeds): where it stands, and how far scores scatter."""

    x: float
    score: float
    deviation: float | None = None


@dataclass(frozen=True)
class Curve:
    """What is compared, in one task: its name and its models."""

    task: str
    name: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Ticks:
    """The horizontal axis: its name, what stands behind its numbers."""

    name: str
    unit: str = ""


def frontier_figure(
    curves: Sequence[Curve], teachers: dict[str, float], metrics: dict[str, str], ticks: Ticks, theme: Theme
) -> Figure:
    """Curves of all tasks on one scale, the first name drawn over the others. Call inside `theme.applied()`.

    teachers, metrics: score of the teacher and name of the metric, by task
    """
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    names = list(dict.fromkeys(curve.name for curve in curves))
    shape = grid(len(tasks), COLUMNS)
    legend_in = 0.3 * -(-(len(names) + 1) // LEGEND_COLUMNS)
    figure = Figure(figsize=(WIDTH_IN, shape[0] * PANEL_IN + legend_in + 0.1), layout="constrained")
    limits = _limits([mark.x for curve in curves for mark in curve.marks])
    for axes, task in zip(panels(figure, len(tasks), shape), tasks, strict=True):
        own = {curve.name: curve for curve in curves if curve.task == task}
        axes.set_title(f"{task} ({metrics[task]})")
        _panel(axes, [own.get(name) for name in names], theme)
        axes.axhline(teachers[task], **theme.teacher_line)
        axes.margins(y=0.1)
        _scale(axes, limits, ticks)
    handles = [Line2D([], [], **_style(index, theme), label=name) for index, name in enumerate(names)]
    handles.append(Line2D([], [], **theme.teacher_line, label="teacher"))
    figure.legend(handles=handles, loc="outside lower center", ncols=LEGEND_COLUMNS, frameon=False, fontsize=8.5)
    return figure


def _style(index: int, theme: Theme) -> dict[str, Any]:
    """The first in the first colour and heavy; the others differ by marker as well as by colour."""
    colours = (theme.first, theme.second, theme.third, theme.muted)
    return {
        "color": colours[index % len(colours)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4.5,
        "linewidth": 2.2 if index == 0 else 1.1,
        "linestyle": "solid" if index < len(colours) else (0, (2, 1.5)),
        "zorder": 4 if index == 0 else 3,
    }


def _panel(axes: Axes, curves: Sequence[Curve | None], theme: Theme) -> None:
    for index, curve in enumerate(curves):
        if curve is None or not curve.marks:
            continue
        style = _style(index, theme)
        marks = sorted(curve.marks, key=lambda mark: mark.x)
        x, y = [mark.x for mark in marks], [mark.score for mark in marks]
        axes.plot(x, y, **style)
        for mark in marks:
            if mark.deviation is not None:
                low, high = mark.score - mark.deviation, mark.score + mark.deviation
                axes.plot([mark.x, mark.x], [low, high], color=style["color"], linewidth=0.9, alpha=0.7)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """All values with room beside them, as ratios: a twentieth of their range, and 10 % of one alone."""
    low, high = min(values), max(values)
    room = max((high / low) ** 0.05, 1.1)
    return low / room, high * room


def _scale(axes: Axes, limits: tuple[float, float], ticks: Ticks) -> None:
    """Logarithmic, as sizes and speeds are ratios."""
    axes.set_xscale("log")
    axes.set_xlim(limits)
    axes.set_xlabel(ticks.name, loc="right")
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*limits)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{ticks.unit}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)


def log_ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers from `low` to `high`, above 0 and `low` below `high`, for a logarithmic axis."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1,)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [value for value in found if low <= value <= high]
        if len(found) <= MAX_TICKS:
            break
    if len(found) > MAX_TICKS:
        return found[:: -(-len(found) // MAX_TICKS)]
    if len(found) > 1:
        return found
    return [float(value) for value in MaxNLocator(4).tick_values(low, high) if low <= value <= high]
