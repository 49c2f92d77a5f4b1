"""What repeats the rows of a table: commands made from what the points have recorded, not from what was typed then."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cofi.sweep.goal import SPARSITY, Goal
from cofi.sweep.plan import DEFAULT_TEACHER_SEED, Grid, Point
from cofi.sweep.store import DONE, settings_of_variant, teacher_of
from cofi.sweep.variants import VARIANTS
from cofi.train.config import defaults
from cofi.train.ranges import flag
from cofi.train.rates import settle_rates

PROFILE = "PROFILE"  # stands for the file of a device profile, which is of one machine


@dataclass(frozen=True)
class Repeat:
    """A full grid: every task with every variant, goal and seed.

    words: the flags of all runs
    teacher: --teacher-seed and its value, where it is not the default
    """

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    goals: tuple[Goal, ...]
    seeds: tuple[int, ...]
    words: tuple[str, ...]
    teacher: tuple[str, ...]

    @property
    def is_own(self) -> bool:
        """Whether its variant is one that the sweep's command defines; it has its flags to itself."""
        return self.variants[0] not in VARIANTS

    def __str__(self) -> str:
        asked = (
            ["--sparsities"] if self.goals[0].kind == SPARSITY else ["--device-profile", PROFILE, "--target-speedups"]
        )
        asked += [_text(goal.value) for goal in self.goals]
        variants, flags = ["--variants", *self.variants], self.words
        if self.is_own:
            variants, flags = [], ("--variant", f"{self.variants[0]}={shlex.join(self.words)}")
        lists = ["--tasks", *self.tasks, *variants, *asked, "--seeds", *map(str, self.seeds), *self.teacher]
        return shlex.join(["python", "-m", "cofi.sweep", "--output", "DIR", *lists, *flags])


def repeats(records: Sequence[dict[str, Any]]) -> list[Repeat]:
    """Grids that hold each finished point of `records` once, in their order.

    A point that does not say its settings, as those of old sweeps, is left out.
    """
    single = []
    for record in records:
        if record["status"] == DONE and "settings" in record:
            point = Point.read(record, "target_")
            words = _words(point, record["settings"], record.get("dense_structure"))
            axes = (point.task,), (point.variant,), (point.goal,), (point.seed,)
            single.append(Repeat(*axes, words, _teacher(record)))
    found = _joined(single, "seeds", lambda repeat: ())
    found = _joined(found, "goals", lambda repeat: repeat.goals[0].kind)  # each kind has a flag of its own
    found = _joined(found, "tasks", lambda repeat: ())
    return _joined(found, "variants", lambda repeat: repeat.is_own and repeat.variants)


def _teacher(record: dict[str, Any]) -> tuple[str, ...]:
    """The flag that gives the point its teacher."""
    teacher = teacher_of(record)
    if teacher == DEFAULT_TEACHER_SEED:
        return ()
    return "--teacher-seed", "each" if teacher == record["seed"] else str(teacher)


def _joined(found: list[Repeat], axis: str, apart: Callable[[Repeat], Hashable]) -> list[Repeat]:
    """Those that differ along `axis` alone made one, in the place of the first; what `apart` says must be equal too."""
    groups: dict[tuple[Repeat, Hashable], list[Repeat]] = {}
    for repeat in found:
        groups.setdefault((replace(repeat, **{axis: ()}), apart(repeat)), []).append(repeat)
    joined = []
    for of in groups.values():
        values = list(dict.fromkeys(value for repeat in of for value in getattr(repeat, axis)))
        joined.append(replace(of[0], **{axis: tuple(sorted(values) if axis in ("goals", "seeds") else values)}))
    return joined


def _words(point: Point, settings: dict[str, Any], dense: dict[str, Any] | None) -> tuple[str, ...]:
    """The flags of cofi.train that a sweep of today needs to give `point` these settings.

    dense: the structure of what was pruned, whose size settles what settings leave to it; None if it is not known
    """
    built_in = VARIANTS.get(point.variant)
    given = {"recipe": settings.get("recipe", "default")} if built_in is None else {}
    variants = {point.variant: given if built_in is None else built_in.settings}
    grid = Grid((point.task,), (point.goal,), (point.seed,), variants, Path("teachers"), profile=PROFILE)
    config = grid.run(point, Path("run"))
    now = settings_of_variant(config if dense is None else settle_rates(config, dense["hidden"]))
    for name, default in defaults().items():
        was = settings.get(name, default)
        if was is not None and was != now.get(name, default):
            given = {**given, name: was}
    return tuple(word for name, value in given.items() for word in (flag(name), _text(value)))


def _text(value: Any) -> str:
    """As a flag takes it, to the last digit."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value).lower() if isinstance(value, bool) else str(value)
