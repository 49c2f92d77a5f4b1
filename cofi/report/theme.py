"""Colours and type of the figures, once for a light page and once for a dark one."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PNG_DPI = 160


@dataclass(frozen=True)
class Theme:
    """Colours as #rrggbb. first, second, third: series, distinguishable by people with colour-blindness."""

    name: str
    paper: str
    ink: str
    muted: str
    faint: str
    band: str
    first: str
    second: str
    third: str

    @property
    def teacher_line(self) -> dict[str, Any]:
        """How the score of the teacher is drawn: arguments of matplotlib's lines."""
        return {"color": self.ink, "linestyle": (0, (4, 3)), "linewidth": 1}

    def applied(self) -> AbstractContextManager[Any]:
        """matplotlib's settings for a figure built, and saved, inside the block."""
        # parse_math off: text of the run may hold dollar signs. svg.fonttype none: text stays text in the page's font.
        settings: Any = {
            "font.family": ["sans-serif"],
            "font.sans-serif": ["Inter", "Helvetica Neue", "Segoe UI", "Arial", "DejaVu Sans"],
            "font.size": 9.5,
            "text.parse_math": False,
            "axes.unicode_minus": True,
            "svg.fonttype": "none",
            "svg.hashsalt": "cofi",
            "text.color": self.ink,
            "axes.facecolor": self.paper,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.muted,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlecolor": self.ink,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelsize": 8.5,
            "ytick.labelsize": 8.5,
            "figure.facecolor": self.paper,
            "lines.linewidth": 1.6,
            "lines.solid_capstyle": "round",
        }
        return matplotlib.rc_context(settings)


LIGHT = Theme("light", "#ffffff", "#1d1f21", "#676b70", "#e4e3df", "#f3f2ee", "#0b7285", "#c8501e", "#7048a8")
DARK = Theme("dark", "#17191b", "#ececea", "#9da2a8", "#383b3f", "#202326", "#3fbacb", "#f2915c", "#b394e6")


class LineEnd(NamedTuple):
    """Where a line ends, in data units, and what to call it."""

    x: float
    y: float
    name: str
    colour: str


def to_svg(figure: Figure) -> bytes:
    """The figure as an SVG file, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def grid(panels: int, most: int) -> tuple[int, int]:
    """Rows and columns, at most `most`, for so many panels: four stand two by two, not three and one."""
    rows = -(-panels // most)
    return rows, -(-panels // rows)


def panels(figure: Figure, count: int, shape: tuple[int, int], **options: Any) -> list[Axes]:
    """The first `count` axes of a grid of `shape`, row by row, without the rest. options: of Figure.subplots"""
    found = figure.subplots(*shape, squeeze=False, **options).ravel()
    for spare in found[count:]:
        spare.remove()
    return list(found[:count])


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved as little as needed to be `gap` apart, in their order, inside [low, high] where they fit."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = list(positions)
    floor = low
    for index in order:
        placed[index] = floor = max(placed[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        placed[index] = ceiling = min(placed[index], ceiling)
        ceiling -= gap
    return placed


def label_line_ends(axes: Axes, ends: Sequence[LineEnd], line_height: float = 0.115) -> None:
    """Write the names of lines right of where the longest of them ends, moved apart where they collide.

    line_height: height of a line of text as a fraction of the axes. Call it after both limits are set.
    """
    if not ends:
        return
    axes.get_ylim()  # settles an automatic limit, which matplotlib would otherwise do only when it draws
    to_axes = axes.transData + axes.transAxes.inverted()
    points = [to_axes.transform((end.x, end.y)) for end in ends]
    anchor = min(max(float(point[0]) for point in points), 1.0)
    heights = [min(max(float(point[1]), 0.0), 1.0) for point in points]
    for height, end in zip(spread(heights, line_height, 0.0, 1.0), ends, strict=True):
        axes.annotate(
            end.name, (anchor, height), (7, 0), "axes fraction", textcoords="offset points",
            va="center", fontsize=8.5, color=end.colour,
        )  # fmt: skip
