"""The directory of a sweep: what is done is read from the files of the runs themselves, so nothing can disagree.

points/<name>/{point.json, run/, speed.json, failure.txt}, teachers/<task>-seed<n>/, sweep.json, table.md, *.png
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cofi.errors import UserError
from cofi.files import lock, read_json, write_atomically
from cofi.sweep.plan import DEFAULT_TEACHER_SEED, Point, teacher_seed
from cofi.train.config import FREE_ON_RESUME, TrainConfig, changes, defaults
from cofi.train.rundir import RunDirectory

# of a result: what a record of a point takes, under the same name
_RESULT_KEYS = (
    *("metric", "teacher_score", "masked_score", "sparsity", "expected_sparsity", "target_reached"),
    *("params_before", "params_after", "total_params_after", "structure", "dense_structure", "seconds"),
    *("total_seconds", "versions", "machine"),
)
SUMMARY = "sweep.json"  # of a sweep, or of published results
_NEEDED = ("compact_score", "metric", "teacher_score", "total_seconds")  # of them, what no table does without
_SPEED_KEYS = ("speedup", "latency_ms", "measured")
# settings that say where things lie on one machine, and those that a point is named by
_OF_PLACE = {"data", "model", "teacher", "train_file", "validation_file", "device_profile", "augment_mlm"}
_OF_POINT = {"task", "sparsity", "target_speedup", "seed"}
NOT_OF_VARIANT = (FREE_ON_RESUME | _OF_PLACE | _OF_POINT) - {"augment_mlm"}
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
        paths = sorted((self.root / "points").glob("*/point.json"))
        return [read_point(read_json(path), str(path)) for path in paths]

    def record(self, point: Point) -> dict[str, Any]:
        """What is known of a point, as sweep.json holds it. Raises UserError naming a file that lacks something."""
        place = self.place(point)
        record: dict[str, Any] = {**described(point), "status": place.status}
        if place.status == FAILED:
            record["error"] = place.failure.read_text(encoding="utf-8").partition("\n")[0]
        if place.status != DONE:
            return record
        result = with_all(_NEEDED, read_json(place.run.result), str(place.run.result))
        record |= {name: result[name] for name in _RESULT_KEYS if name in result}
        record |= made_with(place.run.read_config())
        record["score"] = result["compact_score"]
        target = result.get("target_speedup", {})
        if "measured" in target and not target.get("disturbed"):
            record["delivered_speedup"] = target["measured"]
        if place.speed.is_file():
            speed = with_all((*_SPEED_KEYS, "machine"), read_json(place.speed), str(place.speed))
            record |= speed_fields(speed)
        return record

    def records(self, planned: list[Point]) -> list[dict[str, Any]]:
        """Of the planned points in their order, then of others that are there."""
        return [self.record(point) for point in dict.fromkeys([*planned, *self.found()])]


def read_point(fields: Mapping[str, Any], where: str, prefix: str = "") -> Point:
    """As `Point.read`. Raises UserError saying `where` something of it is missing."""
    try:
        return Point.read(fields, prefix)
    except (KeyError, TypeError, ValueError) as error:
        got = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{where} must have task, variant, seed and a sparsity or speedup, got {got}") from error


def with_all(names: Sequence[str], found: Any, where: str) -> dict[str, Any]:
    """`found`, a JSON object that has all `names`. Raises UserError saying `where` one is missing."""
    if not isinstance(found, dict):
        raise UserError(f"{where} must be an object, got {type(found).__name__}")
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{where} must have {', '.join(names)}, got no {missing[0]}")
    return found


def speed_fields(speed: dict[str, Any]) -> dict[str, Any]:
    """What a record holds of a measurement."""
    return {name: speed[name] for name in _SPEED_KEYS} | {"measured_on": speed["machine"]}


def described(point: Point) -> dict[str, Any]:
    """What a record names a point by."""
    return {"name": point.name, **point.fields("target_")}


def made_with(config: TrainConfig) -> dict[str, Any]:
    """What a record says of how its point is made."""
    return {"settings": settings_of_variant(config), "teacher_seed": teacher_seed(config)}


def teacher_of(record: Mapping[str, Any]) -> int:
    """The seed of its teacher; records from before that was noted are of the usual one."""
    return int(record.get("teacher_seed", DEFAULT_TEACHER_SEED))


def settings_of_variant(config: TrainConfig) -> dict[str, Any]:
    """What makes the variant: all that is not the default, without places and what a point is named by.

    Of `augment_mlm` the hub id stays, or the name of the directory: without it two variants would be one.
    """
    usual, settings = defaults(), config.to_dict()
    if config.augment_mlm is not None:
        settings["augment_mlm"] = _public(config.augment_mlm)
    return {name: value for name, value in settings.items() if name not in NOT_OF_VARIANT and value != usual[name]}


def _public(model: str) -> str:
    """A hub id as it is, of a path to a directory the last part."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_absolute() or path.is_dir() else model


def clear_unbegun(run: RunDirectory) -> None:
    """Remove what is left where a process was killed between making a run's directory and its config.yaml."""
    if not run.root.is_dir() or run.config.exists():
        return
    if all(
        entry in (run.checkpoints, run.lock) or entry.name.startswith(f".{run.config.name}.")
        for entry in run.root.iterdir()
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


def make_directory(folder: Path, what: str) -> None:
    """Make a directory, before the work that is to be written there. Raises UserError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
    except OSError as error:
        reason = error.strerror or str(error)
    if reason is not None:
        raise UserError(f"{what} {folder} cannot be written: {reason}")


@contextlib.contextmanager
def locked(folder: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold `folder` against other processes, to the end of this one whatever happens.

    Raises UserError where another one has it, or waits for that one, where the system cannot lock files so, and where
    `folder` cannot be made.
    """
    make_directory(folder, what)
    with open(folder / ".lock", "w") as file:
        try:
            lock(file, wait=wait)
        except BlockingIOError:
            raise UserError(f"{what} {folder} is in use by another process") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"{what} {folder} cannot be held against other processes: {reason}") from None
        yield
