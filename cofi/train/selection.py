"""Evaluation during training, and keeping the best state seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cofi.data.predict import Evaluation, evaluate_model
from cofi.errors import UserError
from cofi.masks import Gates, Masks, Shifts, expected_sparsity, sparsity
from cofi.train.checkpoint import load_checkpoint, save_checkpoint
from cofi.train.distributed import ALONE, World
from cofi.train.loop import Position, diverged
from cofi.train.objective import Student
from cofi.train.session import Session

KEEPS_BEST = ("teacher", "prune", "finetune")  # the distil-only phase hands on its last state


def student_state(student: Student) -> dict[str, Any]:
    """All tensors of a student, for a checkpoint."""
    parts = {
        "model": student.model,
        "distiller": student.distiller,
        "gates": student.gates,
        "lagrangian": student.lagrangian,
    }
    return {name: module.state_dict() for name, module in parts.items() if module is not None}


def load_student_state(student: Student, state: dict[str, Any]) -> None:
    """Raises UserError where the state is not that of such a student."""
    for name in ("model", "distiller", "gates", "lagrangian"):
        module = getattr(student, name)
        if module is None:
            continue
        try:
            module.load_state_dict(state[name])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the checkpoint does not fit the {name} of this run: were config.yaml, the model or the teacher "
                f"changed? ({str(error).splitlines()[-1].strip()[:200]})"
            ) from error


def checksum(model: nn.Module) -> int:
    """The sum of the weights' bits, which has one value in whatever order it is made."""
    return int(sum(p.detach().view(torch.int32).sum() for p in model.parameters()))


class Best:
    """The best eligible state of a phase, on disk. A strictly better score replaces it."""

    def __init__(self, path: Path, world: World = ALONE) -> None:
        self.path, self.world = path, world
        self.score = -math.inf

    def offer(self, score: float, content: Callable[[], dict[str, Any]]) -> bool:
        if not score > self.score:
            return False
        self.score = score
        if self.world.is_main:
            save_checkpoint(self.path, {"score": score, **content()})
        return True

    @property
    def found(self) -> bool:
        return self.score > -math.inf

    def load(self) -> dict[str, Any]:
        self.world.wait()
        return load_checkpoint(self.path)


class Evaluator:
    """Scores a student on the validation split, writes the line, offers it to `best` (if the phase keeps one)."""

    def __init__(self, session: Session, phase: str, student: Student, steps_per_epoch: int = 1) -> None:
        self.session, self.phase, self.student = session, phase, student
        self.steps_per_epoch = steps_per_epoch
        self.best = Best(session.run.checkpoints / f"best_{phase}.pt", session.world)
        self.last_score = math.nan

    def __call__(self, position: Position) -> None:
        session, student = self.session, self.student
        session.world.require_same("weights", lambda: checksum(student.model))
        eligible = self._eligible()
        masks, facts = self.masks(fitted=eligible)
        result = self._evaluate(masks)
        if not result.finite:
            raise diverged(self.phase, "model's outputs became infinite or NaN", position)
        self.last_score = result.score
        selected = eligible and self.best.offer(self.last_score, lambda: {**student_state(student), **facts})
        session.monitor.record(
            {
                "type": "evaluation",
                "phase": self.phase,
                "step": position.global_step,
                "phase_step": position.phase_step,
                "epoch": round(position.phase_step / self.steps_per_epoch, 4),
                "score": self.last_score,
                "metrics": result.metrics,
                "selected": selected,
                **facts,
            }
        )

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """Go on from where `checkpoint` was written. Raises UserError where the best state until then is gone."""
        self.best.score, self.last_score = checkpoint["best_score"], checkpoint["last_score"]
        if self.best.found and not self.best.path.exists():
            raise UserError(f"--resume: the best state of phase {self.phase} is gone, {self.best.path} is not there")

    def offer_last(self) -> None:
        """Keep the present state although it is not eligible, on target where masks can be brought there."""
        masks, facts = self.masks(fitted=True)
        if any(facts.get("shifts", {}).values()):  # not the masks that were scored last
            self.last_score = self._evaluate(masks).score
        self.best.offer(self.last_score, lambda: {**student_state(self.student), **facts})

    def masks(self, *, fitted: bool) -> tuple[Masks | None, dict[str, Any]]:
        """Deterministic masks and what they keep; None and nothing for a student without gates. See `Constraint`."""
        gates = self.student.gates
        if gates is None:
            return None, {}
        masks, shifts = self.student.held_to.masks(gates, fitted=fitted)
        return masks, self._facts(gates, masks, shifts)

    def rescored(self, shifts: Shifts) -> dict[str, Any]:
        """Score and facts of the masks that other shifts make of the student's gates."""
        gates = self.student.gates
        assert gates is not None
        masks = gates.deterministic(shifts)
        return {"score": self._evaluate(masks).score, **self._facts(gates, masks, shifts)}

    @torch.no_grad()
    def _facts(self, gates: Gates, masks: Masks, shifts: Shifts) -> dict[str, Any]:
        constraint = self.student.held_to
        structure = masks.structure(gates.shape)
        return {
            "expected_sparsity": float(expected_sparsity(gates)),
            "sparsity": sparsity(structure, gates.shape),
            **constraint.values(gates, masks),
            "structure": structure.to_dict(),
            "constraint": constraint.counts,
            "target_reached": constraint.is_met(gates, masks),
            "shifts": shifts,
        }

    def _evaluate(self, masks: Masks | None) -> Evaluation:
        session = self.session
        return evaluate_model(
            self.student.model,
            session.validation,
            session.task,
            batch_size=session.config.eval_batch_size,
            masks=masks,
            device=session.device,
            team=session.world,
        )

    def _eligible(self) -> bool:
        """A masked model counts while its size has reached the target (paper, appendix on training)."""
        if self.phase not in KEEPS_BEST:
            return False
        gates = self.student.gates
        return gates is None or self.student.held_to.is_met(gates)
