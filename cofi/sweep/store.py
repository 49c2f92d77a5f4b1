"""The directory of a sweep: what is done is read from the files of the runs themselves, so nothing can disagree.

points/<name>/{point.json, run/, speed.json, failure.txt}, teachers/<task>-seed<n>/, sweep.json, table.md, *.png
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cofi.errors import UserError
from cofi.files import read_json, write_atomically
from cofi.sweep.plan import Point
from cofi.train.config import FREE_ON_RESUME, TrainConfig, changes, defaults
from cofi.train.rundir import RunDirectory

# of a result: what a record of a point takes, under the same name
_RESULT_KEYS = (
    *("metric", "teacher_score", "masked_score", "sparsity", "expected_sparsity", "target_reached"),
    *("params_before", "params_after", "total_params_after", "structure", "dense_structure", "seconds"),
    *("total_seconds", "versions", "machine"),
)
SUMMARY = "sweep.json"  # of a sweep, or of published results
_SPEED_KEYS = ("speedup", "latency_ms", "measured")
# settings that say where things lie on one machine, and those that a point is named by
_OF_PLACE = {"data", "model", "teacher", "train_file", "validation_file", "device_profile", "augment_mlm"}
_OF_POINT = {"task", "sparsity", "target_speedup", "seed"}
DONE, FAILED, STARTED, WAITING = "done", "failed", "started", "waiting"


@dataclasses.dataclass(frozen=True)
class Place:
    """The files of one point."""

    root: Path

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.root / "run")

    @property
    def point(self) -> Path:
        return self.root / "point.json"

    @property
    def speed(self) -> Path:
        return self.root / "speed.json"

    @property
    def failure(self) -> Path:
        return self.root / "failure.txt"

    @property
    def status(self) -> str:
        if self.run.result.is_file():
            return DONE
        if self.failure.is_file():
            return FAILED
        return STARTED if self.run.config.is_file() else WAITING

    def fail(self, reason: str) -> None:
        """Note why the point has no result: one line, and what Python said below it."""
        write_atomically(self.failure, reason.encode())

    def begin(self, point: Point) -> None:
        """Make the directory. What a process left that was killed before its run began is cleared away."""
        self.root.mkdir(parents=True, exist_ok=True)
        write_atomically(self.point, (json.dumps(point.fields()) + "\n").encode())
        clear_unbegun(self.run)

    def finish(self, *, keep_checkpoints: bool) -> None:
        """Of a finished run the checkpoints and its copy of the teacher can go: for a small model nine tenths of it."""
        self.failure.unlink(missing_ok=True)
        if not keep_checkpoints:
            shutil.rmtree(self.run.checkpoints, ignore_errors=True)
            shutil.rmtree(self.run.teacher, ignore_errors=True)


class Store:
    """The directory of a sweep."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.summary = root / SUMMARY

    def place(self, point: Point) -> Place:
        return Place(self.root / "points" / point.name)

    def found(self) -> list[Point]:
        """The points that have been begun by this or an earlier command, in the order of their names."""
        return [Point.read(read_json(path)) for path in sorted((self.root / "points").glob("*/point.json"))]

    def record(self, point: Point) -> dict[str, Any]:
        """What is known of a point, as sweep.json holds it."""
        place = self.place(point)
        record: dict[str, Any] = {**described(point), "status": place.status}
        if place.status == FAILED:
            record["error"] = place.failure.read_text(encoding="utf-8").partition("\n")[0]
        if place.status != DONE:
            return record
        result = read_json(place.run.result)
        record |= {name: result[name] for name in _RESULT_KEYS if name in result}
        record["settings"] = settings_of_variant(place.run.read_config())
        record["score"] = result["compact_score"]
        target = result.get("target_speedup", {})
        if "measured" in target and not target.get("disturbed"):
            record["delivered_speedup"] = target["measured"]
        if place.speed.is_file():
            record |= speed_fields(read_json(place.speed))
        return record

    def records(self, planned: list[Point]) -> list[dict[str, Any]]:
        """Of the planned points in their order, then of others that are there."""
        return [self.record(point) for point in dict.fromkeys([*planned, *self.found()])]


def speed_fields(speed: dict[str, Any]) -> dict[str, Any]:
    """What a record holds of a measurement."""
    return {name: speed[name] for name in _SPEED_KEYS} | {"measured_on": speed["machine"]}


def described(point: Point) -> dict[str, Any]:
    """What a record names a point by."""
    return {"name": point.name, **point.fields("target_")}


def settings_of_variant(config: TrainConfig) -> dict[str, Any]:
    """What makes the variant: all that is not the default, without places and what a point is named by."""
    usual, left_out = defaults(), FREE_ON_RESUME | _OF_PLACE | _OF_POINT
    return {name: value for name, value in config.to_dict().items() if name not in left_out and value != usual[name]}


def clear_unbegun(run: RunDirectory) -> None:
    """Remove what is left where a process was killed between making a run's directory and its config.yaml."""
    if not run.root.is_dir() or run.config.exists():
        return
    if all(
        entry.name == "checkpoints" or entry.name.startswith(f".{run.config.name}.") for entry in run.root.iterdir()
    ):
        shutil.rmtree(run.root)


def check_settings(run: RunDirectory, wanted: TrainConfig, what: str) -> None:
    """Raise UserError where a run is there already and was made with other settings than are wanted now.

    Two spellings of one place are no other setting.
    """
    if not run.config.is_file():
        return
    made, asked = run.read_config().to_dict(), wanted.to_dict()
    asked |= {name: made[name] for name in _OF_PLACE if _is_one_place(made[name], asked[name])}
    changed = changes(made, asked)
    if changed:
        raise UserError(
            f"{what} in {run.root} was made with other settings and cannot be a point of this sweep: "
            f"{', '.join(changed)}. Give the old settings, or name another --output"
        )


def _is_one_place(one: str | None, other: str | None) -> bool:
    """Whether both are paths to one file or directory that is there; the id of a model on a hub is none."""
    if one is None or other is None:
        return False
    return Path(one).exists() and Path(one).resolve() == Path(other).resolve()


def _fcntl(what: str) -> ModuleType:
    """Imported late: where it is missing, other commands still read what sweeps left."""
    try:
        import fcntl
    except ImportError:
        raise UserError(
            f"a sweep needs a POSIX system (Linux, macOS, WSL) to hold {what} against others, got {sys.platform}"
        ) from None
    return fcntl


@contextlib.contextmanager
def locked(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder` against other processes, to the end of this one whatever happens.

    Raises UserError where another one has it, or waits for that one, and where the system cannot lock files so.
    """
    fcntl = _fcntl(f"{what} {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(f"{what} {folder} is in use by another process") from None
        yield
