"""Records of points put together: means over seeds, and the tables that documents show."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cofi.report.values import MISSING, number, numbers, show_count, show_percent, show_ratio, show_score, show_seconds
from cofi.sweep.goal import Goal
from cofi.sweep.repeating import repeats
from cofi.sweep.store import DONE, FAILED, SUMMARY

Record = dict[str, Any]
T = TypeVar("T")
NOTE = (
    "Scores are the best evaluation of the fine-tuned small model on the validation rows, as the paper reports them: "
    "mean and sample standard deviation over the seeds, in points. Masked: before fine-tuning. Parameters: the "
    "encoder's, without embeddings and heads. Speed: against the teacher, medians of interleaved calls, real lengths, "
    "no padding, of rounds in which the machine was left alone; †: beside other work, or before that was looked at, "
    "and in no plot or comparison. A star: expected sparsity stayed below the target."
)
REPEATED = (
    "Where tasks did not come from the hub: with `--data`; where the model was not all-MiniLM-L6-v2: with `--model`. "
    "Another seed is another `--seeds`. Speeds: `python -m cofi.sweep --output DIR --measure`, on quiet cores. What "
    f"was typed is in `{SUMMARY}`."
)


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (None for one value)."""

    value: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Mean | None:
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)

    def __str__(self) -> str:
        return show_score(self.value) + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Group:
    """The finished points of one task, variant and goal: what differs is the seed."""

    task: str
    variant: str
    goal: Goal
    records: tuple[Record, ...]

    def mean(self, key: str) -> Mean | None:
        return Mean.of(number(record, key) for record in self.records)

    def value(self, key: str) -> float | None:
        mean = self.mean(key)
        return None if mean is None else mean.value

    def speedup(self, batch: str) -> float | None:
        """Mean of the speedups at "batch 1", "batch 32", ... of the points that are `timed_alone`."""
        return _speedup([record for record in self.records if timed_alone(record, batch)], batch)

    def show_speedup(self, batch: str) -> str:
        """For a table: of all points, and marked, where none was timed alone."""
        alone, beside = self.speedup(batch), _speedup(self.records, batch)
        if alone is None and beside is not None:
            return f"{show_ratio(beside)} †"
        return show_ratio(alone)

    @property
    def timed_on(self) -> frozenset[tuple[Any, ...]]:
        """The machines whose times the speedups are of."""
        return frozenset(place_of(record["measured_on"]) for record in self.records if "measured_on" in record)


def place_of(machine: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two machines must have in common for their times to compare: of `machine_info`."""
    return tuple(machine.get(name) for name in ("device", "cpu", "threads"))


def _speedup(records: Sequence[Record], batch: str) -> float | None:
    mean = Mean.of(numbers(record, "speedup").get(batch) for record in records)
    return None if mean is None else mean.value


def timed_alone(record: Record, batch: str) -> bool:
    """Whether its speed at `batch` is of rounds in which the machine was left alone.

    Beside other work, for want of a quiet minute, or in results from before there was a gauge, a teacher may have taken
    twice as long and its small model half as long again: such a speedup is none of the model.
    """
    measured = record.get("measured", {})
    return batch in numbers(measured, "gflops") and not measured.get("disturbed", {}).get(batch, False)


def is_disturbed(record: Record) -> bool:
    """Whether a speed of it is not of a machine left alone."""
    return not all(timed_alone(record, batch) for batch in numbers(record, "speedup"))


def known_rates(records: Iterable[Record], machine: Mapping[str, Any]) -> list[float]:
    """GFLOP/s that this machine made in a plain product while points were timed with nothing beside them."""
    timed = [record for record in records if "measured_on" in record and not is_disturbed(record)]
    here = [record for record in timed if place_of(record["measured_on"]) == place_of(machine)]
    return [rate for record in here for rate in numbers(record["measured"], "gflops").values()]


def group(records: Sequence[Record]) -> list[Group]:
    """Finished points by task, variant and goal, in the order in which the first two appear, goals ascending."""
    finished = [record for record in records if record["status"] == DONE]
    tasks, variants = (list(dict.fromkeys(record[key] for record in finished)) for key in ("task", "variant"))
    found: dict[tuple[str, str, Goal], list[Record]] = {}
    for record in finished:
        found.setdefault((record["task"], record["variant"], Goal.read(record, "target_")), []).append(record)
    order = sorted(found, key=lambda key: (tasks.index(key[0]), variants.index(key[1]), key[2]))
    return [Group(*key, tuple(sorted(found[key], key=lambda record: int(record["seed"])))) for key in order]


def batch_names(records: Sequence[Record]) -> list[str]:
    """What speed was measured at, of all records."""
    return list(dict.fromkeys(name for record in records for name in numbers(record, "speedup")))


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(records: Sequence[Record], typed: Sequence[str], machine: dict[str, Any]) -> str:
    """table.md: the mean over tasks, a table a task, what failed, how to repeat it. `typed`: what was given."""
    groups = group(records)
    parts = ["# Results", NOTE]
    if len({g.task for g in groups}) > 1:
        parts += ["## Scores of all tasks", overview(groups)]
    parts += [
        section(task, [g for g in groups if g.task == task], records) for task in dict.fromkeys(g.task for g in groups)
    ]
    failed = [record for record in records if record["status"] == FAILED]
    if failed:
        parts += ["## Failed", "\n".join(f"- {record['name']}: {record['error']}" for record in failed)]
    waiting = sum(record["status"] not in (DONE, FAILED) for record in records)
    if waiting:
        parts.append(f"{waiting} of {len(records)} points are not finished.")
    commands = [str(repeat) for repeat in repeats(records)] or typed  # old points do not say their settings
    parts += ["## To repeat it", REPEATED, "```bash\n" + "\n".join(commands) + "\n```", where(records, machine)]
    return "\n\n".join(parts) + "\n"


def overview(groups: Sequence[Group]) -> str:
    """A row a variant and goal, a column a task, and the mean where all tasks are there."""
    tasks = list(dict.fromkeys(g.task for g in groups))
    rows = [
        ["teacher", "", *(_teacher(groups, task) for task in tasks), _plain([teacher_score(groups, t) for t in tasks])]
    ]
    for (variant, goal), of in by_variant((g, g) for g in groups).items():
        means = [of[task].mean("score") if task in of else None for task in tasks]
        values = [None if mean is None else mean.value for mean in means]
        rows.append([variant, str(goal), *(MISSING if m is None else str(m) for m in means), _plain(values)])
    return markdown(["variant", "asked", *tasks, "mean"], rows)


def by_variant(items: Iterable[tuple[Group, T]]) -> dict[tuple[str, Goal], dict[str, T]]:
    """What belongs to groups as the rows and columns of a table: by variant and goal, then by task."""
    found: dict[tuple[str, Goal], dict[str, T]] = {}
    for g, item in items:
        found.setdefault((g.variant, g.goal), {})[g.task] = item
    return found


def teacher_score(groups: Sequence[Group], task: str) -> float | None:
    """Mean over all points of the task, which may have several teachers."""
    mean = Mean.of(number(record, "teacher_score") for g in groups if g.task == task for record in g.records)
    return None if mean is None else mean.value


def _teacher(groups: Sequence[Group], task: str) -> str:
    return show_score(teacher_score(groups, task))


def _plain(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return show_score(statistics.fmean(known)) if len(known) == len(values) else MISSING


def section(task: str, groups: Sequence[Group], records: Sequence[Record]) -> str:
    """Heading and table of one task."""
    batches = batch_names(records)
    by_speed = any(g.value("delivered_speedup") is not None for g in groups)
    columns: list[tuple[str, Callable[[Group], str]]] = [
        ("variant", lambda g: g.variant),
        ("asked", lambda g: str(g.goal)),
        *([("delivered", lambda g: show_ratio(g.value("delivered_speedup")))] if by_speed else []),
        ("sparsity", _delivered),
        ("parameters", lambda g: show_count(g.value("params_after"))),
        ("score", lambda g: str(g.mean("score"))),
        ("masked", lambda g: str(g.mean("masked_score"))),
        *((name, lambda g, name=name: g.show_speedup(name)) for name in batches),  # type: ignore[misc]
        ("time", lambda g: show_seconds(g.value("total_seconds"))),
        ("seeds", lambda g: " ".join(str(record["seed"]) for record in g.records)),
    ]
    metric = groups[0].records[0].get("metric", "score")
    heading = f"## {task}\n\nTeacher: {metric} {_teacher(groups, task)}."
    return f"{heading}\n\n{markdown([name for name, _ in columns], [[show(g) for _, show in columns] for g in groups])}"


def _delivered(g: Group) -> str:
    """The share of weights that is gone, with a star where a seed did not reach its target."""
    missed = any(record.get("target_reached") is False for record in g.records)
    return show_percent(g.value("sparsity")) + (" *" if missed else "")


def where(records: Sequence[Record], machine: dict[str, Any]) -> str:
    """The machines and versions that points were made with; `machine` of those that do not say."""
    done = [record for record in records if record["status"] == DONE]
    lines = [f"Trained on {_place(record.get('machine', machine), record.get('versions', {}))}." for record in done]
    lines += [f"Timed on {_place(record['measured_on'], {})}." for record in done if "measured_on" in record]
    timed = [record for record in done if "measured_on" in record]
    older = [record for record in timed if "gflops" not in record.get("measured", {})]
    disturbed = [record["name"] for record in timed if is_disturbed(record) and record not in older]
    if disturbed:
        lines.append(f"Timed beside other work, for want of a quiet minute: {', '.join(disturbed)}.")
    if older:
        lines.append(f"{len(older)} of {len(timed)} speeds are of all rounds, whatever else the machine was doing.")
    return "\n\n".join(dict.fromkeys(lines))


def _place(machine: dict[str, Any], versions: dict[str, Any]) -> str:
    place = machine["cpu"] if machine["device"] == "cpu" else machine["device"]
    threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
    named = [f"{name} {value}" for name, value in versions.items()]
    commit = "no commit known" if machine["commit"] is None else f"commit {machine['commit']}"
    return ", ".join([place, threads, commit, machine["date"], *named])
