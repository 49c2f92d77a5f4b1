"""The points of a sweep, one after another: each is begun, gone on with or skipped, and none stops the others."""

from __future__ import annotations

import dataclasses
import errno
import gc
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.console import Console

from cofi.errors import UserError
from cofi.report import write_report
from cofi.report.values import show_seconds
from cofi.sweep.plan import Grid, Point
from cofi.sweep.store import DONE, Place, Store, check_settings, clear_unbegun, described, locked, made_with
from cofi.train.config import FREE_ON_RESUME, TrainConfig
from cofi.train.interrupt import Interrupted, SignalGuard
from cofi.train.pipeline import train
from cofi.train.rundir import RunDirectory

# a machine that cannot write fails every point that follows
_STOPS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class Sweep:
    """A grid being worked on. `changed` is called after each point."""

    def __init__(self, grid: Grid, store: Store, console: Console, *, keep_checkpoints: bool) -> None:
        self.grid, self.store, self.console = grid, store, console
        self.keep_checkpoints = keep_checkpoints
        self.points = grid.points()
        self.guard = SignalGuard()  # of each run in its turn
        self._broken_teachers: dict[str, str] = {}
        for point in self.points:
            check_settings(store.place(point).run, self.config(point), f"point {point.name}")
            teacher = grid.teacher(point.task, point.seed)
            check_settings(RunDirectory(str(teacher.output)), teacher, f"the teacher of {point.task}")

    def config(self, point: Point) -> TrainConfig:
        return self.grid.run(point, self.store.place(point).run.root)

    def planned(self) -> list[dict[str, Any]]:
        """Records of all points as they are known before they run: their names and settings."""
        return [{**described(point), **made_with(self.config(point))} for point in self.points]

    def run(self, changed: Callable[[], object]) -> int:
        """Do what is left. Returns the number of points that failed.

        Raises Interrupted where a signal stopped a run, or came too late for that and stops the sweep after it, and
        KeyboardInterrupt.
        """
        failures = 0
        for number, point in enumerate(self.points, 1):
            place = self.store.place(point)
            if place.status != DONE:
                self._say(
                    f"[bold]point {number} of {len(self.points)}: {point.name}[/bold]  {self.outlook(number - 1)}"
                )
                place.begin(point)
                error = self._attempt(point, place)
                failures += error is not None
                changed()
            if place.status == DONE:
                place.finish(keep_checkpoints=self.keep_checkpoints)
            self._stop_if_asked()
        return failures

    def _stop_if_asked(self) -> None:
        """Raise Interrupted where a signal came in a run that had nothing left to stop."""
        if self.guard.received is not None:
            raise Interrupted(self.guard.received)

    def _attempt(self, point: Point, place: Place) -> str | None:
        """Run a point to its end. What goes wrong is noted and returned."""
        try:
            self._ensure_teacher(point)
            self._stop_if_asked()
            self._finish_run(self.config(point), place.run)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _STOPS:
                raise
            line = " ".join(str(error).split()) or type(error).__name__
            line = line if isinstance(error, UserError) else f"{type(error).__name__}: {line}"
            place.fail(line if isinstance(error, UserError) else f"{line}\n\n{traceback.format_exc()}")
            self._say(f"[red]failed:[/red] {line}")
            return line
        finally:
            gc.collect()  # models of the run hold on to themselves
        return None

    def _ensure_teacher(self, point: Point) -> None:
        config = self.grid.teacher(point.task, point.seed)
        place = str(config.output)
        if place in self._broken_teachers:
            raise UserError(self._broken_teachers[place])
        run = RunDirectory(place)
        with locked(run.root.parent, "the directory of teachers", wait=True):
            if run.result.is_file():
                return
            self._say(f"the teacher of {point.task}, seed {config.seed}")
            clear_unbegun(run)
            try:
                self._finish_run(config, run)
            except Interrupted:
                raise
            except Exception as error:
                self._broken_teachers[place] = f"no teacher: {error}"
                raise

    def _finish_run(self, config: TrainConfig, run: RunDirectory) -> None:
        """Begin a run, or go on with it as it was told when it began."""
        if run.config.is_file():
            free = {name: getattr(config, name) for name in FREE_ON_RESUME}
            config = dataclasses.replace(run.read_config(), **{**free, "resume": True})
        threads = torch.get_num_threads()
        try:
            if not run.result.is_file():
                train(config, run, guard=self.guard)
        finally:
            torch.set_num_threads(threads)  # --threads may be of this task or variant alone
        write_report(run.root)

    def outlook(self, done: int) -> str:
        """How far the sweep is, and how long the rest will take going by the points that are finished."""
        records = [self.store.record(point) for point in self.points]
        finished = [record for record in records if record["status"] == DONE]
        left = [record for record in records[done:] if record["status"] != DONE]
        seconds = remaining_seconds(finished, left)
        ahead = f"about {show_seconds(seconds)} left" if seconds is not None else "no point is finished to go by"
        return f"{len(finished)} done, {len(left)} to do, {ahead} ({time.strftime('%H:%M')})"

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)


def remaining_seconds(finished: Sequence[dict[str, Any]], left: Sequence[dict[str, Any]]) -> float | None:
    """An estimate for the points `left`: the mean of finished points that are alike, None where none is finished.

    Alike: of the same task and variant, else of the same task, else any.
    """
    if not finished:
        return None
    likeness: tuple[tuple[str, ...], ...] = (("task", "variant"), ("task",), ())
    total = 0.0
    for point in left:
        for keys in likeness:
            like = [f["total_seconds"] for f in finished if all(f[key] == point[key] for key in keys)]
            if like:
                total += statistics.fmean(like)
                break
    return total
