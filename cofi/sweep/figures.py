"""The plots of a sweep: score against size and against measured speed, and what variants at one goal score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from cofi.report.frontier_figure import Curve, Mark, Ticks, frontier_figure
from cofi.report.theme import LIGHT, to_png
from cofi.report.values import TIMES, number
from cofi.report.variants_figure import variants_figure
from cofi.sweep.goal import SPEEDUP
from cofi.sweep.summary import Group, Record, batch_names, group, teacher_score
from cofi.sweep.variants import GROUPS, VARIANTS

SIZE, ABLATIONS = "size.png", "ablations.png"


def draw(records: Sequence[Record]) -> dict[str, bytes]:
    """PNG files by name: size.png, speed-batch-1.png and so on of what was measured, ablations.png where there are any.

    Empty without a result.
    """
    groups = group(records)
    if not groups:
        return {}
    ablated = ablations(groups)
    frontier = [g for g in groups if g.variant not in ablated]
    drawn = {SIZE: _draw(frontier, _millions, Ticks("encoder parameters, millions"))}
    for name in batch_names(records):
        file = f"speed-{name.replace(' ', '-')}.png"
        drawn[file] = _draw(frontier, _speed(name), Ticks(f"speedup, {name}", TIMES))
    if ablated:
        drawn[ABLATIONS] = _draw_ablations(groups, ablated)
    return {name: png for name, png in drawn.items() if png is not None}


def ablations(groups: Sequence[Group]) -> set[str]:
    """Variants that a frontier has no place for: the ablations, and one's own that were run at one goal alone.

    The first variant, which the others are held against, is none.
    """
    goals = Counter(variant for variant, _ in {(g.variant, g.goal) for g in groups})
    own_once = {variant for variant, count in goals.items() if variant not in VARIANTS and count == 1}
    return ((goals.keys() & set(GROUPS["ablations"])) | own_once) - {groups[0].variant}


def _millions(g: Group) -> float | None:
    parameters = g.value("params_after")
    return parameters / 1e6 if parameters else None  # none at all has no place on a logarithmic axis


def _speed(name: str) -> Callable[[Group], float | None]:
    return lambda g: g.speedup(name)


def _draw(groups: Sequence[Group], place: Callable[[Group], float | None], ticks: Ticks) -> bytes | None:
    curves = _curves(groups, place)
    if not curves:
        return None
    teachers, metrics = _teachers(groups)
    with LIGHT.applied():
        return to_png(frontier_figure(curves, teachers, metrics, ticks, LIGHT))


def _draw_ablations(groups: Sequence[Group], ablated: set[str]) -> bytes:
    """Of the goal that most of them were run at, beside the first variant."""
    ((goal, _),) = Counter(g.goal for g in groups if g.variant in ablated).most_common(1)
    there = [g for g in groups if g.goal == goal and g.variant in {groups[0].variant, *ablated}]
    tasks = {g.task for g in there if g.variant in ablated}
    shown = [g for g in there if g.task in tasks]
    teachers, metrics = _teachers(shown)
    scores = {task: {g.variant: _scores(g) for g in shown if g.task == task} for task in teachers}
    titles = {task: f"{task} ({metric}), {goal}" for task, metric in metrics.items()}
    with LIGHT.applied():
        return to_png(variants_figure(scores, teachers, titles, LIGHT))


def _scores(g: Group) -> list[float]:
    return [score for record in g.records if (score := number(record, "score")) is not None]


def _teachers(groups: Sequence[Group]) -> tuple[dict[str, float], dict[str, str]]:
    """Score of the teacher, as in the table, and name of the metric, by task."""
    metrics: dict[str, str] = {}
    for g in groups:
        metrics.setdefault(g.task, str(g.records[0]["metric"]))
    return {task: score for task in metrics if (score := teacher_score(groups, task)) is not None}, metrics


def _curves(groups: Sequence[Group], place: Callable[[Group], float | None]) -> list[Curve]:
    marks: dict[tuple[str, str], list[Mark]] = {}
    for g in groups:
        x, score = place(g), g.mean("score")
        if x is not None and score is not None:
            variant = g.variant + (", by speed" if g.goal.kind == SPEEDUP else "")
            marks.setdefault((g.task, variant), []).append(Mark(x, score.value, score.deviation))
    return [Curve(task, variant, tuple(found)) for (task, variant), found in marks.items()]
