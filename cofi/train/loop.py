"""The loop every phase runs: batches in a fixed order, a loss, optimizers, evaluations, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cofi.data.augment import Editions
from cofi.data.batches import BatchPlan, TaskBatch
from cofi.errors import UserError
from cofi.train.config import TrainConfig
from cofi.train.distributed import ALONE, World
from cofi.train.graph import GraphedSteps, with_rounded_length
from cofi.train.interrupt import Interrupted, SignalGuard
from cofi.train.monitor import Monitor
from cofi.train.objective import Objective, StepLoss, Student
from cofi.train.optim import PhaseOptimizers
from cofi.train.precision import products_in
from cofi.train.shares import add_up, take_share

RATES = {  # what is too high where the loss of a phase is no number
    "teacher": "--teacher-learning-rate",
    "distil": "--learning-rate",
    "prune": "--learning-rate or --reg-learning-rate",
    "finetune": "--finetune-learning-rate",
}


@dataclass(frozen=True)
class PhaseLength:
    """Steps of a phase of `epochs` passes over `rows` rows: at least one of a phase that there is."""

    steps: int
    steps_per_epoch: int

    @staticmethod
    def of(rows: int, batch_size: int, epochs: float) -> PhaseLength:
        per_epoch = math.ceil(rows / batch_size)
        steps = max(1, round(per_epoch * epochs)) if epochs > 0 else 0
        return PhaseLength(steps=steps, steps_per_epoch=per_epoch)


@dataclass
class Position:
    """Where a phase stands. `global_step` counts over the phases of a run."""

    phase_step: int = 0
    global_step: int = 0


def diverged(phase: str, what: str, position: Position) -> UserError:
    """A run that would do the same again where it is resumed: its settings are at fault."""
    return UserError(
        f"phase {phase}, step {position.phase_step}: the {what}; start again with a lower {RATES[phase]} (--overwrite "
        "replaces this run)"
    )


class PhaseLoop:
    """Runs one phase from `position` to its end.

    evaluate(position) is called every `eval_steps` steps and at the end; save(position) when a checkpoint is due or a
    signal asks the run to stop. All processes of `world` take the same steps and call both at the same ones.
    """

    def __init__(
        self,
        phase: str,
        config: TrainConfig,
        data: Editions,
        length: PhaseLength,
        monitor: Monitor,
        guard: SignalGuard,
        *,
        evaluate: Callable[[Position], None],
        save: Callable[[Position], None],
        world: World = ALONE,
    ) -> None:
        self.phase, self.config, self.data, self.length = phase, config, data, length
        self.monitor, self.guard = monitor, guard
        self.evaluate, self.save, self.world = evaluate, save, world
        self.eval_steps = config.eval_steps or length.steps_per_epoch
        self._saved_at = time.monotonic()
        self._tokens, self._since = 0, time.monotonic()
        self._plan: BatchPlan | None = None
        self._epoch = -1

    def run(self, student: Student, objective: Objective, optimizers: PhaseOptimizers, position: Position) -> None:
        take_step = self._step_of(student, objective, optimizers)
        self.monitor.begin(self.phase, self.length.steps, position.phase_step)
        while position.phase_step < self.length.steps:
            self._before_step(student, position)
            student.model.train()
            rows = self._indices(position.phase_step)
            batch = take_share(self.data.split, rows, self.world)
            self._tokens += int(self.data.split.input_ids.lengths_of(rows).sum())
            learning_rate = optimizers.learning_rate
            loss = take_step(batch, position.phase_step)
            position.phase_step += 1
            position.global_step += 1
            self.monitor.advance()
            self._after_step(position, loss, learning_rate)
        self.monitor.end()

    def _before_step(self, student: Student, position: Position) -> None:
        """What takes long there can be interrupted: it is done once more when the run goes on."""
        if student.before_step is None:
            return
        try:
            student.before_step(position.phase_step)
        except Interrupted:
            self.save(position)
            raise

    def _step_of(
        self, student: Student, objective: Objective, optimizers: PhaseOptimizers
    ) -> Callable[[TaskBatch, int], StepLoss]:
        """What runs a step: CUDA graphs on a GPU, if they are wanted."""
        device = student.model.device
        if device.type == "cuda" and self.config.cuda_graphs and self.world.size == 1:
            return GraphedSteps(student, objective, optimizers, self.monitor.message)

        def eager(batch: TaskBatch, step: int) -> StepLoss:
            if device.type == "cuda":
                batch = with_rounded_length(batch, student.model.config.longest)
            with products_in(self.config.precision, device):
                loss = objective(student, batch.to(device), step)
                loss.total.backward()
            add_up(self.world, optimizers.parameters, loss)
            optimizers.step()
            return loss

        return eager

    def _indices(self, step: int) -> list[int]:
        epoch, index = divmod(step, self.length.steps_per_epoch)
        if self._plan is None or epoch != self._epoch:
            config = self.config
            self._epoch = epoch
            self._plan = BatchPlan(
                self.data.lengths,
                config.batch_size,
                seed=config.seed,
                epoch=epoch,
                group_by_length=config.group_by_length,
            )
        return self.data.rows(epoch, self._plan.batch(index))

    def _after_step(self, position: Position, loss: StepLoss, learning_rate: float) -> None:
        last = position.phase_step == self.length.steps
        logs = last or position.phase_step % self.config.log_steps == 0
        evaluates = last or position.phase_step % self.eval_steps == 0
        is_due = self.world.is_main and time.monotonic() - self._saved_at > self.config.save_seconds
        due, signum = self.world.agree(is_due, self.guard.received or 0)
        saves = last or bool(due) or signum > 0
        if logs or evaluates or saves:
            self._check(position, loss)
        if logs:
            self._log(position, loss, learning_rate)
        if evaluates:
            self.evaluate(position)
        if saves:
            self.save(position)
            self._saved_at = time.monotonic()
        if signum:
            raise Interrupted(signum)

    def _check(self, position: Position, loss: StepLoss) -> None:
        """A loss that is not finite ends the run before its model can be evaluated or reach a checkpoint."""
        total = float(loss.total.detach())
        if not math.isfinite(total):
            raise diverged(self.phase, f"loss became {total}", position)

    def _log(self, position: Position, loss: StepLoss, learning_rate: float) -> None:
        """Write a line; between two of these the host reads nothing of a step."""
        now = time.monotonic()
        row: dict[str, Any] = {
            "type": "step",
            "phase": self.phase,
            "step": position.global_step,
            "phase_step": position.phase_step,
            "epoch": round(position.phase_step / self.length.steps_per_epoch, 4),
            "loss": float(loss.total.detach()),
            "learning_rate": learning_rate,
            "tokens_per_second": round(self._tokens / max(now - self._since, 1e-9), 1),
        }
        row.update({name: float(v) if isinstance(v, torch.Tensor) else v for name, v in loss.parts.items()})
        self._tokens, self._since = 0, now
        self.monitor.record(row)
