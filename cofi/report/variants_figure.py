"""Scores of variants that were run at one goal, a row each: what every part of a method is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cofi.report.theme import Theme, grid, panels

WIDTH_IN, ROW_IN, MARGIN_IN = 9.0, 0.22, 0.8
COLUMNS = 3

Scores = Mapping[str, Mapping[str, Sequence[float]]]  # by task, then by variant: of each seed


def variants_figure(scores: Scores, teachers: Mapping[str, float], titles: Mapping[str, str], theme: Theme) -> Figure:
    """A panel a task: a dot each seed, a bar at the mean of several. Call inside `theme.applied()`.

    The first variant of all is the reference: it comes first, and its range is shaded over the rows of the others. They
    follow by how far their means are from its, of all tasks that have both.
    teachers, titles: score of the teacher, a dashed line, and heading, by task
    """
    names = ordered(scores)
    shape = grid(len(scores), COLUMNS)
    height = shape[0] * (ROW_IN * len(names) + MARGIN_IN)
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    drawn = panels(figure, len(scores), shape, sharey=True)
    for axes, (task, own) in zip(drawn, scores.items(), strict=True):
        axes.set_title(titles[task])
        _panel(axes, names, own, theme)
        axes.axvline(teachers[task], **theme.teacher_line)
        axes.annotate("teacher", (teachers[task], 1), (-3, -2), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha="right", va="top", fontsize=8, color=theme.muted)  # fmt: skip
    drawn[0].set_yticks(range(len(names)), names)
    drawn[0].set_ylim(len(names) - 0.5, -1.2)  # the first row on top, and room for a word above it
    return figure


def ordered(scores: Scores) -> list[str]:
    """Names of all variants, in the order of the rows."""
    names = list(dict.fromkeys(name for own in scores.values() for name in own))
    means = [{name: statistics.fmean(found) for name, found in own.items()} for own in scores.values()]

    def lost(name: str) -> float:
        """Points behind the reference; of a variant that no task can compare, so many that it comes last."""
        behind = [own[names[0]] - own[name] for own in means if name in own and names[0] in own]
        return statistics.fmean(behind) if behind else math.inf

    return [names[0], *sorted(names[1:], key=lost)]


def _panel(axes: Axes, names: Sequence[str], own: Mapping[str, Sequence[float]], theme: Theme) -> None:
    if names[0] in own:
        axes.axvspan(min(own[names[0]]), max(own[names[0]]), color=theme.first, alpha=0.12, linewidth=0)
    for row, name in enumerate(names):
        found = own.get(name, ())
        colour = theme.first if row == 0 else theme.ink
        alpha = 0.55 if len(found) > 1 else 1.0
        axes.plot(found, [row] * len(found), "o", color=colour, markersize=4, alpha=alpha, markeredgewidth=0)
        if len(found) > 1:
            axes.plot(statistics.fmean(found), row, "|", color=colour, markersize=9, markeredgewidth=2)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.5, alpha=0.4)
    axes.set_axisbelow(True)
