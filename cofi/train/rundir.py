"""The directory of a run: where everything is, and the rules for starting, continuing and replacing one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cofi.errors import UserError
from cofi.files import lock, read_yaml, write_atomically
from cofi.train.config import TrainConfig


class RunDirectory:
    """Paths of a run. `config.yaml` is written first, so its presence says that a run is here."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.metrics = self.root / "metrics.jsonl"
        self.result = self.root / "result.json"
        self.profile = self.root / "profile.json"
        self.checkpoints = self.root / "checkpoints"
        self.last = self.checkpoints / "last.pt"
        self.best = self.checkpoints / "best.pt"
        self.augmented = self.checkpoints / "augmented.pt"
        self.calibration = self.checkpoints / "calibration.pt"
        self.model = self.root / "model"
        self.teacher = self.root / "teacher"
        self.teacher_outputs = self.root / "teacher_outputs"
        self.tensorboard = self.root / "tensorboard"
        self.lock = self.root / ".lock"

    @classmethod
    def of_model(cls, folder: Path) -> RunDirectory | None:
        """The run that is in `folder`, or whose model or teacher that is; None where there is none. Other programs too
        keep a config.yaml beside their models."""
        for run in (cls(folder), cls(folder.parent)):
            if run.config.is_file() and run.metrics.is_file() and folder in (run.root, run.model, run.teacher):
                return run
        return None

    def check_free(self, config: TrainConfig) -> None:
        """Raise UserError where a new run may not or cannot go, before any work is done."""
        try:
            self._check_place(config)
        except OSError as error:
            raise UserError(f"--output {self.root} cannot be written: {error.strerror or error}") from error

    def _check_place(self, config: TrainConfig) -> None:
        if self.config.exists() and not config.overwrite:
            raise UserError(
                f"--output {self.root} already holds a run: continue it with --resume, replace it with --overwrite, "
                "or name another directory"
            )
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"--output {self.root} is a file, and must be a directory")
        if self.root.is_dir() and set(self.root.iterdir()) - {self.lock} and not self.config.exists():
            raise UserError(f"--output {self.root} is not empty and holds no run: name another directory")
        parent = self.root.absolute()
        while not parent.exists():
            parent = parent.parent
        if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
            raise UserError(f"--output {self.root} cannot be written: {parent} is not a writable directory")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory, which is made, while this process writes there; not where files cannot be locked.

        Raises UserError where another process has it, or it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = self.lock.open("w")
        except OSError as error:
            raise UserError(f"--output {self.root} cannot be written: {error.strerror or error}") from error
        with file:
            try:
                lock(file)
            except BlockingIOError:
                raise UserError(f"--output {self.root} is in use by another process") from None
            except OSError:  # as some network file systems have none
                pass
            try:
                yield
            finally:
                self.lock.unlink(missing_ok=True)

    def start(self, config: TrainConfig) -> None:
        """Make the directory of a new run. Raises UserError when it cannot be written or holds a run already."""
        self.check_free(config)
        try:
            if config.overwrite and self.config.exists():
                self._remove_run()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            settings = yaml.safe_dump({**config.to_dict(), "overwrite": False}, sort_keys=False)
            write_atomically(self.config, settings.encode())
        except OSError as error:
            raise UserError(f"--output {self.root} cannot be written: {error.strerror or error}") from error

    def _remove_run(self) -> None:
        """Delete what a run writes and nothing else, the mark that a run is here last."""
        for folder in (
            self.checkpoints,
            self.model,
            self.teacher,
            self.teacher_outputs,
            self.tensorboard,
            self.root / "figures",
        ):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.result, self.profile, self.root / "report.html", self.config):
            file.unlink(missing_ok=True)

    def remove_intermediates(self) -> None:
        """Of a run that is finished: nothing asks for them again, and they may take more room than all else."""
        shutil.rmtree(self.teacher_outputs, ignore_errors=True)
        self.augmented.unlink(missing_ok=True)

    def read_config(self) -> TrainConfig:
        """The settings of the run that is here. Raises UserError where there is none or it cannot be read."""
        if not self.config.is_file():
            raise UserError(f"--resume: {self.root} holds no run (no config.yaml)")
        values = read_yaml(self.config)
        known = {field.name for field in dataclasses.fields(TrainConfig)}
        unknown = sorted(str(name) for name in values.keys() - known)
        if unknown:
            raise UserError(f"{self.config} is not the configuration of a run: {unknown}")
        try:
            return TrainConfig(**values)
        except UserError as error:
            raise UserError(f"{self.config}: {error}") from error

    def write_result(self, result: dict[str, Any]) -> None:
        write_atomically(self.result, (json.dumps(result, indent=2) + "\n").encode())
