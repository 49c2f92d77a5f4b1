"""What a sweep is to do: its points, their settings and teachers, all checked before anything runs."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cofi.data.sources import DataRequest, base_task
from cofi.errors import UserError
from cofi.profile.profile import find_profile, read_profile
from cofi.sweep.goal import SPEEDUP, Goal
from cofi.sweep.variants import GROUPS, VARIANTS
from cofi.train.arguments import resolve
from cofi.train.config import TrainConfig

# what a teacher depends on: two sweeps that differ in other settings can share one
TEACHER_FIELDS = (
    *("task", "model", "device", "precision", "cuda_graphs", "threads", "data", "train_file", "validation_file"),
    *("validation_fraction", "text_column", "pair_column", "label_column", "task_kind", "max_train_samples"),
    *("max_eval_samples", "max_length", "doc_stride", "group_by_length", "teacher_epochs", "batch_size"),
    *("eval_batch_size", "teacher_learning_rate", "lr_warmup", "weight_decay", "max_grad_norm", "eval_steps"),
    *("log_steps", "save_seconds", "tensorboard"),
)
DEFAULT_TEACHER_SEED = 57
_OF_TEACHER = re.compile(r".*-seed(\d+)")


@dataclass(frozen=True)
class Point:
    """One run of the grid."""

    task: str
    variant: str
    goal: Goal
    seed: int

    @property
    def name(self) -> str:
        """Of its directory, such as sst2-default-s80-seed1."""
        return f"{self.task}-{self.variant}-{self.goal.label}-seed{self.seed}"

    @classmethod
    def read(cls, fields: Mapping[str, Any], prefix: str = "") -> Point:
        """`prefix`: of the goal."""
        return cls(fields["task"], fields["variant"], Goal.read(fields, prefix), fields["seed"])

    def fields(self, prefix: str = "") -> dict[str, Any]:
        """The inverse of `read`."""
        return {"task": self.task, "variant": self.variant, **self.goal.fields(prefix), "seed": self.seed}


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep, and what its runs are told beside them.

    settings:      of every run, by field of TrainConfig
    task_settings: of the runs of one task; they go before `settings`
    variants:      settings by name of the variant; they go before both
    teacher_seed:  of the one teacher of each task; None gives each seed a teacher of that seed
    teachers:      directory of the teachers
    profile:       of the machine, for the goals that are speedups
    """

    tasks: tuple[str, ...]
    goals: tuple[Goal, ...]
    seeds: tuple[int, ...]
    variants: dict[str, dict[str, Any]]
    teachers: Path
    settings: dict[str, Any] = field(default_factory=dict)
    task_settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_seed: int | None = None
    profile: str | None = None

    def points(self) -> list[Point]:
        """In the order of running: every stretch from the start is a smaller sweep over all tasks."""
        axes = itertools.product(self.seeds, self.variants, self.goals, self.tasks)
        return [Point(task, variant, goal, seed) for seed, variant, goal, task in axes]

    def teacher(self, task: str, seed: int) -> TrainConfig:
        """The run that makes the teacher for the points of `seed`. It knows nothing of how they are pruned."""
        known = {*TEACHER_FIELDS, "recipe"}
        resolved = resolve({name: value for name, value in self._given(task).items() if name in known})
        kept = {name: getattr(resolved, name) for name in TEACHER_FIELDS}
        own_seed = seed if self.teacher_seed is None else self.teacher_seed
        place = str(self.teachers / f"{task}-seed{own_seed}")
        return TrainConfig(**{**kept, "recipe": "default", "seed": own_seed, "output": place, "teacher_only": True})

    def run(self, point: Point, directory: Path) -> TrainConfig:
        """The settings of a point whose run is to be in `directory`."""
        given = {
            **self._given(point.task),
            **self.variants[point.variant],
            **{"seed": point.seed, "output": str(directory)},
            **self._asked(point.goal),
        }
        config = resolve(given)
        return dataclasses.replace(
            config,
            teacher=str(Path(str(self.teacher(point.task, point.seed).output)) / "teacher"),
            student_init="teacher" if config.student_init == "auto" else config.student_init,
        )

    def _given(self, task: str) -> dict[str, Any]:
        """What was given for all runs of a task."""
        return {**self.settings, **self.task_settings.get(task, {}), "task": task}

    def _asked(self, goal: Goal) -> dict[str, Any]:
        """Speeds of all points are measured later, on quiet cores. A run that is asked for one measures as well, or
        nothing would correct what the profile says of it."""
        if goal.kind == SPEEDUP:
            return {"target_speedup": goal.value, "device_profile": self.profile}
        return {"sparsity": goal.value, "measure_seconds": 0.0}

    def check(self) -> None:
        """Raise UserError, naming the point, where the settings of one are not valid."""
        for point in self.points():
            try:
                self.run(point, Path(point.name))
            except UserError as error:
                raise UserError(f"{point.name}: {error}") from error

    def check_inputs(self) -> None:
        """Raise UserError where a task or the profile is not there, before anything runs."""
        for task in self.tasks:
            try:
                base_task(task, DataRequest(data_dir=self._given(task).get("data")))
            except UserError as error:
                raise UserError(f"--tasks {task}: {error}") from error
        if self.profile is not None:
            read_profile(find_profile(self.profile))


def teacher_seed(config: TrainConfig) -> int:
    """The seed of the teacher of a point's run, by the name that `Grid.teacher` gave its directory."""
    found = _OF_TEACHER.fullmatch(Path(config.teacher or "").parent.name)
    return int(found[1]) if found else DEFAULT_TEACHER_SEED


def variant_settings(names: list[str], own: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Settings by name: the built-in variants and those of one's own that `names` lists, all of one's own where empty.

    Raises UserError for an unknown name, or an own variant that takes a built-in name.
    """
    taken = sorted(own.keys() & {*VARIANTS, *GROUPS})
    if taken:
        raise UserError(f"--variant must not take the name of a built-in variant, got {taken[0]!r}")
    known = {**{name: variant.settings for name, variant in VARIANTS.items()}, **own}
    given = names or list(own) or ["default"]
    names = [name for one in given for name in GROUPS.get(one, (one,))]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"--variants must be of {', '.join([*known, *GROUPS])}, got {unknown[0]!r}")
    return {name: known[name] for name in names}
