"""The comparison as Markdown: a table a task, the tally, and where the reference does not win."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cofi.compare.frontier import Frontier, Place, Verdict
from cofi.report.values import MISSING, show_change, show_count, show_percent, show_ratio, show_score
from cofi.sweep.goal import SPARSITY
from cofi.sweep.summary import Group, Mean, Record, batch_names, by_variant, group, markdown
from cofi.sweep.variants import GROUPS

NOTE = (
    "Each row is a model of another method, and beside it what {reference} scores at the same size and at the same "
    "measured speed: on straight lines (in the logarithm of size or speed) between its measured points and the "
    "teacher, without those that another one beats in both. Gain: {reference} minus the other, in points; = where it "
    "is within the scatter of the seeds; - where {reference} was not measured at that size or speed, or not on the "
    "same machine, or one of the two not while that was left alone. Scores are means over the seeds of the best "
    "evaluation on the validation rows."
)
ABLATION_NOTE = "The score without a part of the method, and what {reference} gains over it at the same size."


@dataclass(frozen=True)
class Axis:
    """Something that can be equal: its name, where a group stands on it, how it is shown."""

    name: str
    place: Place

    def show(self, value: float | None) -> str:
        return show_count(value) if self.name == "size" else show_ratio(value)


@dataclass(frozen=True)
class Row:
    """A group of another method, and the verdict on each axis; None where the reference was not measured there."""

    group: Group
    verdicts: dict[str, Verdict | None]

    @property
    def is_ablation(self) -> bool:
        return self.group.variant in GROUPS["ablations"]


def axes_of(records: Sequence[Record]) -> list[Axis]:
    """Size, and speed at each batch size that was measured."""

    def at(batch: str) -> Place:
        return lambda g: g.speedup(batch)

    size = Axis("size", lambda g: g.value("params_after"))
    return [size, *(Axis(f"speed, {batch}", at(batch)) for batch in batch_names(records))]


def compare(records: Sequence[Record], reference: str) -> dict[str, list[Row]]:
    """Rows by task, of the tasks in which the reference has a result."""
    groups, axes = group(records), axes_of(records)
    found: dict[str, list[Row]] = {}
    for task in dict.fromkeys(g.task for g in groups if g.variant == reference):
        own = [g for g in groups if g.task == task]
        found[task] = [
            Row(g, {axis.name: _verdict(g, axis, _frontier(own, reference, axis, g)) for axis in axes})
            for g in own
            if g.variant != reference
        ]
    return found


def _frontier(groups: Sequence[Group], reference: str, axis: Axis, other: Group) -> Frontier:
    """Of the reference, as far as it can be held against `other`: speeds where one machine has timed both."""
    own = [g for g in groups if g.variant == reference]
    teacher = own[0].mean("teacher_score")
    assert teacher is not None  # every result has one
    start = own[0].value("params_before") if axis.name == "size" else 1.0
    if axis.name == "size":
        alike = [g for g in own if g.goal.kind == SPARSITY]  # a run that was asked for speed spends its weights on it
    else:
        alike = [g for g in own if len(g.timed_on | other.timed_on) <= 1]
    dense = (start or 1.0, Mean(teacher.value, None))
    return Frontier.of(alike, axis.place, dense, smaller_is_better=axis.name == "size")


def _verdict(g: Group, axis: Axis, frontier: Frontier) -> Verdict | None:
    if axis.name == "size" and g.goal.kind != SPARSITY:
        return None  # as in `_frontier`: asked for speed, it spends its weights on it
    x, score = axis.place(g), g.mean("score")
    found = frontier.at(x) if x else None
    return Verdict.of(found, score) if found is not None and score is not None else None


def report(records: Sequence[Record], reference: str) -> str:
    """All of it as Markdown."""
    compared, axes = compare(records, reference), axes_of(records)
    methods = {task: [row for row in own if not row.is_ablation] for task, own in compared.items()}
    rows = [row for own in methods.values() for row in own]
    ablated = [row for own in compared.values() for row in own if row.is_ablation]
    parts = [f"# {reference} against the other methods", NOTE.format(reference=reference)]
    parts += [f"## {task}\n\n{_table(own, axes)}" for task, own in methods.items() if own]
    parts += ["## Tally", _tally(rows, axes), f"## Where {reference} does not win", _not_won(rows, axes)]
    if ablated:
        parts += ["## Ablations", ABLATION_NOTE.format(reference=reference), _ablations(ablated)]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Row], axes: Sequence[Axis]) -> str:
    head = ["method", "sparsity", "score"]
    for axis in axes:
        head += [axis.name, "reference", "gain"]
    lines = []
    for row in rows:
        cells = [row.group.variant, show_percent(row.group.value("sparsity")), str(row.group.mean("score"))]
        for axis in axes:
            cells += [axis.show(axis.place(row.group)), *_cells(row.verdicts[axis.name])]
        lines.append(cells)
    return markdown(head, lines)


def _ablations(rows: Sequence[Row]) -> str:
    """A row a variant and goal, a column a task."""
    tasks = list(dict.fromkeys(row.group.task for row in rows))
    lines = [
        [variant, str(goal), *(_against(of[task]) if task in of else MISSING for task in tasks)]
        for (variant, goal), of in by_variant((row.group, row) for row in rows).items()
    ]
    return markdown(["without", "asked", *tasks], lines)


def _against(row: Row) -> str:
    """`27.90, gain +0.13 =`"""
    verdict = row.verdicts["size"]
    return f"{row.group.mean('score')}" + ("" if verdict is None else f", gain {_cells(verdict)[1]}")


def _cells(verdict: Verdict | None) -> list[str]:
    if verdict is None:
        return [MISSING, MISSING]
    even = "" if verdict.wins or verdict.loses else " ="
    return [show_score(verdict.reference.value), show_change(verdict.gain) + even]


def _tally(rows: Sequence[Row], axes: Sequence[Axis]) -> str:
    """A row a method and axis: won, within the scatter, lost, not comparable; and the mean gain."""
    lines = []
    for variant in dict.fromkeys(row.group.variant for row in rows):
        for axis in axes:
            verdicts = [row.verdicts[axis.name] for row in rows if row.group.variant == variant]
            known = [verdict for verdict in verdicts if verdict is not None]
            won, lost = sum(v.wins for v in known), sum(v.loses for v in known)
            counts = [won, len(known) - won - lost, lost, len(verdicts) - len(known)]
            mean = Mean.of(verdict.gain for verdict in known)
            lines.append([variant, axis.name, *map(str, counts), MISSING if mean is None else show_change(mean.value)])
    return markdown(["method", "equal", "won", "even", "lost", "not comparable", "mean gain"], lines)


def _not_won(rows: Sequence[Row], axes: Sequence[Axis]) -> str:
    lines = []
    for axis in axes:
        for row in rows:
            verdict = row.verdicts[axis.name]
            if verdict is not None and not verdict.wins:
                word = "loses" if verdict.loses else "is even"
                lines.append(
                    f"- {row.group.task}, equal {axis.name} ({axis.show(axis.place(row.group))}): {word} against "
                    f"{row.group.variant}, {show_score(verdict.reference.value)} to {row.group.mean('score')}"
                )
    return "\n".join(lines) or "Nowhere, as far as the two can be compared."
