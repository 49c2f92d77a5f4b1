"""What the phases of one run share: settings, data, device, teacher, and where the run stands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from cofi.data.augment import Editions
from cofi.data.split import TokenizedSplit
from cofi.data.task import Task
from cofi.errors import UserError
from cofi.models import CompactModel
from cofi.profile.profile import Profile
from cofi.train.checkpoint import load_checkpoint, save_checkpoint
from cofi.train.config import TrainConfig, changes
from cofi.train.distributed import ALONE, World
from cofi.train.interrupt import Interrupted, SignalGuard
from cofi.train.monitor import Monitor
from cofi.train.rundir import RunDirectory
from cofi.train.teacher import Teacher

T = TypeVar("T")
PHASES = ("teacher", "distil", "prune", "finetune")


@dataclass
class Session:
    """One run while it works. `scores` and `seconds` are by phase; `resumed` is the checkpoint it continues from,
    `profile` what a target speedup is counted by. `shown`: what a phase trains on, `train` until there are versions."""

    config: TrainConfig
    run: RunDirectory
    device: torch.device
    task: Task
    train: TokenizedSplit
    validation: TokenizedSplit
    monitor: Monitor
    guard: SignalGuard
    world: World = ALONE
    teacher: CompactModel | None = None
    outputs: Teacher | None = None
    global_step: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    resumed: dict[str, Any] | None = None
    profile: Profile | None = None
    shown: Editions = field(init=False)

    def __post_init__(self) -> None:
        self.shown = Editions(self.train)

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Continue from `checkpoint`."""
        self.resumed = checkpoint
        self.global_step = checkpoint["global_step"]
        self.scores, self.seconds = checkpoint["scores"], checkpoint["seconds"]

    def is_past(self, phase: str) -> bool:
        """True where the run that is continued had already left `phase`."""
        return self.resumed is not None and PHASES.index(self.resumed["phase"]) > PHASES.index(phase)

    def restored(self, phase: str) -> dict[str, Any] | None:
        """The checkpoint, if it was taken in `phase`."""
        return self.resumed if self.resumed is not None and self.resumed["phase"] == phase else None

    def interruptible(self, what: str, items: Sequence[T]) -> Iterator[T]:
        """The items with a bar; a signal ends the run between two. Raises Interrupted.

        One process of several goes on: the others may not have been asked, and would wait for it for ever.
        """
        for item in self.monitor.track(what, items):
            if self.guard.received is not None and self.world.size == 1:
                raise Interrupted(self.guard.received)
            yield item

    def save(self, phase: str, content: dict[str, Any]) -> None:
        """Write the checkpoint to continue from. Nothing in it is of one process, so any number of them can."""
        if not self.world.is_main:
            return
        save_checkpoint(
            self.run.last,
            {
                "phase": phase,
                "global_step": self.global_step,
                "scores": self.scores,
                "seconds": self.seconds,
                "elapsed": self.monitor.seconds,
                "metrics_position": self.monitor.position(),
                "settings": self.config.to_dict(),
                **content,
            },
        )


def read_last_checkpoint(run: RunDirectory, config: TrainConfig) -> dict[str, Any] | None:
    """The newest checkpoint of a run, None where it stopped before its first.

    Raises UserError where it cannot be read, is of other settings than `config`, or the teacher it needs is gone.
    """
    if not run.last.exists():
        return None
    checkpoint = load_checkpoint(run.last)
    if checkpoint.get("phase") not in PHASES or "settings" not in checkpoint:
        raise UserError(f"{run.last} is not the last checkpoint of a run: it holds {', '.join(map(str, checkpoint))}")
    changed = changes(checkpoint["settings"] | {"overwrite": False}, config.to_dict())
    if changed:
        raise UserError(f"{run.config} was changed since {run.last} was written: {', '.join(changed)}")
    if checkpoint["phase"] != PHASES[0] and not (run.teacher / "config.json").is_file():
        raise UserError(f"--resume: the teacher of the run is gone, {run.teacher / 'config.json'} is not there")
    return checkpoint
