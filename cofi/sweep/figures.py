"""The plots of a sweep: score against size and against measured speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cofi.report.frontier_figure import Curve, Mark, Ticks, frontier_figure
from cofi.report.theme import LIGHT, to_png
from cofi.report.values import TIMES
from cofi.sweep.goal import SPEEDUP
from cofi.sweep.summary import Group, Record, batch_names, group

SIZE = "size.png"


def draw(records: Sequence[Record]) -> dict[str, bytes]:
    """PNG files by name: size.png, and speed-batch-1.png and so on of what was measured. Empty without a result."""
    groups = group(records)
    drawn = {SIZE: _draw(groups, _millions, Ticks("encoder parameters, millions"))}
    for name in batch_names(records):
        file = f"speed-{name.replace(' ', '-')}.png"
        drawn[file] = _draw(groups, _speed(name), Ticks(f"speedup, {name}", TIMES))
    return {name: png for name, png in drawn.items() if png is not None}


def _millions(g: Group) -> float | None:
    parameters = g.value("params_after")
    return parameters / 1e6 if parameters else None  # none at all has no place on a logarithmic axis


def _speed(name: str) -> Callable[[Group], float | None]:
    return lambda g: g.speedup(name)


def _draw(groups: Sequence[Group], place: Callable[[Group], float | None], ticks: Ticks) -> bytes | None:
    curves = _curves(groups, place)
    if not curves:
        return None
    firsts = {g.task: g.records[0] for g in reversed(groups)}
    teachers = {task: float(record["teacher_score"]) for task, record in firsts.items()}
    metrics = {task: str(record["metric"]) for task, record in firsts.items()}
    with LIGHT.applied():
        return to_png(frontier_figure(curves, teachers, metrics, ticks, LIGHT))


def _curves(groups: Sequence[Group], place: Callable[[Group], float | None]) -> list[Curve]:
    marks: dict[tuple[str, str], list[Mark]] = {}
    for g in groups:
        x, score = place(g), g.mean("score")
        if x is not None and score is not None:
            variant = g.variant + (", by speed" if g.goal.kind == SPEEDUP else "")
            marks.setdefault((g.task, variant), []).append(Mark(x, score.value, score.deviation))
    return [Curve(task, variant, tuple(found)) for (task, variant), found in marks.items()]
