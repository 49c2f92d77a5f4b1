"""The figure of a run: losses, score, sparsity and multipliers over the steps, phases behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from cofi.report.reading import Phase, RunFiles
from cofi.report.series import by_phase, column, thin
from cofi.report.theme import LineEnd, Theme, label_line_ends, spread
from cofi.report.values import number

WIDTH_IN, PANEL_IN, TOP_IN, BOTTOM_IN, GAP_IN = 9.0, 1.45, 0.62, 0.5, 0.48
LEFT, RIGHT = 0.075, 0.855
LOG_RANGE = 20.0  # losses whose 95th percentile is this many times the 5th are drawn on a logarithmic axis
LOSSES = ("loss", "prediction_loss", "layer_loss")
MIN_LABEL_IN = 0.75  # room for a phase's name


Panel = Callable[[Axes, RunFiles, Theme], list[LineEnd]]  # draws one panel, returns where its lines end


class Line(NamedTuple):
    """A column of the log as it is drawn: its key, its name in the figure, its colour, its dash pattern."""

    key: str
    name: str
    colour: str
    dashes: str | tuple[int, tuple[int, ...]] = "solid"


def training_figure(run: RunFiles, theme: Theme) -> Figure | None:
    """Curves of the run, or None where its log has no number to draw. Call inside `theme.applied()`."""
    panels = [panel for panel in PANEL_KEYS if _has_data(panel, run)]
    if not panels:
        return None
    height_in = TOP_IN + BOTTOM_IN + len(panels) * PANEL_IN + (len(panels) - 1) * GAP_IN
    figure = Figure(figsize=(WIDTH_IN, height_in))
    phases = run.phases
    first, last = phases[0].start, max(phases[-1].end, phases[0].start + 1)
    for row, panel in enumerate(panels):
        bottom_in = height_in - TOP_IN - PANEL_IN - row * (PANEL_IN + GAP_IN)
        axes = figure.add_axes((LEFT, bottom_in / height_in, RIGHT - LEFT, PANEL_IN / height_in))
        axes.set_xlim(first, last)
        _shade(axes, phases, theme)
        ends = panel(axes, run, theme)
        label_line_ends(axes, ends)
        axes.tick_params(length=3)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if row == 0:
            _name_phases(axes, phases, theme)
        if row == len(panels) - 1:
            axes.set_xlabel("step", loc="right")
        else:
            axes.tick_params(labelbottom=False)
    return figure


def _has_data(panel: Panel, run: RunFiles) -> bool:
    records = run.evaluations if panel is _scores else run.steps
    return any(number(record, name) is not None for record in records for name in PANEL_KEYS[panel])


def _shade(axes: Axes, phases: Sequence[Phase], theme: Theme) -> None:
    """Every second phase on a band, so that neighbours differ without a colour that would mean something."""
    for index, phase in enumerate(phases):
        if index % 2 == 0:
            axes.axvspan(phase.start, phase.end, color=theme.band, linewidth=0, zorder=0)


def _name_phases(axes: Axes, phases: Sequence[Phase], theme: Theme) -> None:
    """Names above the panel, moved apart where a phase is shorter than its name."""
    low, high = axes.get_xlim()
    middles = [((phase.start + phase.end) / 2 - low) / (high - low) for phase in phases]
    margin = MIN_LABEL_IN / ((RIGHT - LEFT) * WIDTH_IN)
    for middle, phase in zip(spread(middles, margin, margin / 2, 1 - margin / 2), phases, strict=True):
        axes.annotate(
            phase.name, (middle, 1.0), (0, 22), "axes fraction", textcoords="offset points",
            ha="center", fontsize=9, fontweight="bold", color=theme.muted,
        )  # fmt: skip


def _draw(axes: Axes, run: RunFiles, lines: Sequence[Line]) -> list[LineEnd]:
    """Each line broken between phases, with the spread of its steps where it was thinned."""
    ends: list[LineEnd] = []
    for line in lines:
        last = None
        for records in by_phase(run.steps).values():
            x, y = column(records, line.key)
            if not len(x):
                continue
            series = thin(x, y)
            if series.thinned:
                axes.fill_between(series.x, series.low, series.high, color=line.colour, alpha=0.18, linewidth=0)
            marker = "o" if len(x) == 1 else ""
            axes.plot(series.x, series.y, color=line.colour, linestyle=line.dashes, marker=marker, markersize=3)
            last = (float(x[-1]), float(series.y[-1]))
        if last is not None:
            ends.append(LineEnd(*last, line.name, line.colour))
    return ends


def _losses(axes: Axes, run: RunFiles, theme: Theme) -> list[LineEnd]:
    axes.set_title("Loss")
    ends = _draw(
        axes,
        run,
        [
            Line("loss", "total", theme.muted),
            Line("prediction_loss", "prediction", theme.first),
            Line("layer_loss", "layer", theme.second),
        ],
    )
    values = np.concatenate([column(run.steps, key)[1] for key in LOSSES])
    if values.min() > 0 and np.percentile(values, 95) > LOG_RANGE * np.percentile(values, 5):
        axes.set_yscale("log")
        axes.set_title("Loss (logarithmic)")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    return ends


def _scores(axes: Axes, run: RunFiles, theme: Theme) -> list[LineEnd]:
    """Evaluations as points joined within a phase; the one it hands on ringed; the teacher as a dashed line."""
    metric = run.result.get("metric")
    axes.set_title(f"Score ({metric})" if isinstance(metric, str) else "Score")
    ends: list[LineEnd] = []
    for name, records in by_phase(run.evaluations).items():
        colour = theme.muted if name == "teacher" else theme.first
        x, y = column(records, "score")
        if not len(x):
            continue
        axes.plot(x, y, color=colour, marker="o", markersize=3.5, clip_on=False)
        chosen = column([record for record in records if record.get("selected") is True], "score")
        axes.plot(chosen[0][-1:], chosen[1][-1:], "o", markersize=8, mfc="none", mec=theme.ink, clip_on=False)
        if name != "teacher":
            ends = [LineEnd(float(x[-1]), float(y[-1]), f"student {y[-1]:.1f}", colour)]
    teacher = number(run.result, "teacher_score")
    if teacher is not None:
        axes.axhline(teacher, color=theme.ink, linestyle=(0, (4, 3)), linewidth=1)
        ends.append(LineEnd(axes.get_xlim()[1], teacher, f"teacher {teacher:.1f}", theme.ink))
    axes.margins(y=0.15)
    return ends


def _sparsity(axes: Axes, run: RunFiles, theme: Theme) -> list[LineEnd]:
    """Expected and target sparsity of the steps; points for the deterministic masks of the evaluations."""
    axes.set_title("Sparsity")
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ends = _draw(
        axes,
        run,
        [
            Line("target_sparsity", "target", theme.ink, (0, (4, 3))),
            Line("expected_sparsity", "expected", theme.first),
        ],
    )
    x, y = column(run.evaluations, "sparsity")
    if len(x):
        axes.plot(x, y, "o", markersize=3.5, color=theme.second, zorder=3, clip_on=False)
        ends.append(LineEnd(float(x[-1]), float(y[-1]), "of the masks", theme.second))
    return ends


def _speedup(axes: Axes, run: RunFiles, theme: Theme) -> list[LineEnd]:
    """The same for a target that is a speedup, by the latency profile."""
    axes.set_title("Speedup by the profile")
    lines = [
        Line("target_speedup", "target", theme.ink, (0, (4, 3))),
        Line("expected_speedup", "expected", theme.first),
    ]
    ends = _draw(axes, run, lines)
    x, y = column(run.evaluations, "kept_speedup")
    if len(x):
        axes.plot(x, y, "o", markersize=3.5, color=theme.second, zorder=3, clip_on=False)
        ends.append(LineEnd(float(x[-1]), float(y[-1]), "of the masks", theme.second))
    return ends


def _multipliers(axes: Axes, run: RunFiles, theme: Theme) -> list[LineEnd]:
    axes.set_title("Lagrange multipliers and penalty")
    return _draw(
        axes,
        run,
        [
            Line("lambda_1", "λ₁", theme.first),
            Line("lambda_2", "λ₂", theme.second),
            Line("lagrangian_loss", "penalty", theme.third),
        ],
    )


# What each panel draws, from top to bottom; a panel without a number under any of its keys is left out.
PANEL_KEYS: dict[Panel, tuple[str, ...]] = {
    _losses: LOSSES,
    _scores: ("score",),
    _sparsity: ("expected_sparsity", "target_sparsity"),
    _speedup: ("expected_speedup", "target_speedup"),
    _multipliers: ("lambda_1", "lambda_2"),
}
