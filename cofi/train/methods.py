"""How a run finds what to cut: CoFi's learned masks, or one of the baselines, within the same number of epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cofi.baselines import COFI, MOVEMENT, ONE_SHOT, Evidence, FixedGates, MovementGates, MovementRamp, fisher_scores
from cofi.data.batches import BatchPlan, collate
from cofi.masks import Gates, Lagrangian, Masks, SparsityRamp, parse_kinds, start_by_worth
from cofi.models import CompactModel
from cofi.train.config import TrainConfig
from cofi.train.constraint import make_constraint
from cofi.train.loop import PhaseLength
from cofi.train.objective import Student
from cofi.train.randomness import derived_seed
from cofi.train.session import Session

SCORED_EXAMPLES = 1024  # of the training rows, for scores of units


@dataclass(frozen=True)
class Pruning:
    """The pruning phase of a run and the fine-tuning after it.

    give_gates: gives a student the gates of the phase, and what else its loss needs
    """

    give_gates: Callable[[Session, Student], None]
    prune_epochs: float
    finetune_epochs: float


def pruning_of(config: TrainConfig) -> Pruning:
    """Methods that need no pruning phase fine-tune for its epochs as well."""
    if config.method in ONE_SHOT:
        return Pruning(add_fixed_gates, 0.0, config.prune_epochs + config.finetune_epochs)
    add = {COFI: add_gates, MOVEMENT: add_movement_gates}[config.method]
    return Pruning(add, config.prune_epochs, config.finetune_epochs)


def add_gates(session: Session, student: Student) -> None:
    """Give a student the gates, multipliers and ramp of the pruning phase."""
    config = session.config
    shape = student.model.config.shape()
    kinds = parse_kinds(config.mask_kinds)
    means = {kind: config.int_init_mean if kind == "int" else config.init_mean for kind in kinds}
    gates = Gates(shape, kinds, init_means=means, rounding=config.rounding, seed=derived_seed(config.seed, "gates"))
    constraint = make_constraint(config, shape, session.profile)
    if config.gate_prior == "fisher" and not _is_chosen(session):
        session.monitor.message("scoring heads and intermediate dims, for the gates to start by ...")
        start_by_worth(gates, fisher_scores(_evidence(session, student.model)), constraint.target)
    student.gates = gates.to(session.device)
    student.lagrangian = Lagrangian().to(session.device)
    student.constraint = constraint.to(session.device)
    student.ramp = _ramp(session, constraint.target.goal)


def _ramp(session: Session, goal: float) -> SparsityRamp:
    config = session.config
    if config.gate_prior == "fisher":  # there from the start: a ramp would open the gates again
        return SparsityRamp(goal)
    return SparsityRamp(goal, config.start_sparsity, _warmup_steps(session), config.sparsity_ramp)


def _warmup_steps(session: Session) -> int:
    config = session.config
    return PhaseLength.of(len(session.train), config.batch_size, config.sparsity_warmup_epochs).steps


def _is_chosen(session: Session) -> bool:
    """Whether gates come from the checkpoint of the run that is continued, however they start."""
    return session.is_past("prune") or session.restored("prune") is not None


def add_movement_gates(session: Session, student: Student) -> None:
    gates = MovementGates(student.model.config.shape()).to(session.device)
    student.gates = gates
    student.ramp = MovementRamp(session.config.sparsity, warmup_steps=_warmup_steps(session), gates=gates)


def add_fixed_gates(session: Session, student: Student) -> None:
    """Gates of a one-shot method; chosen now, unless the choice was made before the run stopped."""
    masks = None
    if not _is_chosen(session):
        session.monitor.message(f"choosing what to keep by {session.config.method} ...")
        masks = ONE_SHOT[session.config.method](_evidence(session, student.model))
    student.gates = FixedGates(student.model.config.shape(), masks).to(session.device)
    student.ramp = SparsityRamp(session.config.sparsity)


def _evidence(session: Session, model: CompactModel) -> Evidence:
    return Evidence(model.config.shape(), session.config.sparsity, lambda: mask_gradients(session, model))


def mask_gradients(session: Session, model: CompactModel) -> Iterator[dict[str, Tensor]]:
    """Gradients of the task's own loss in the masks of heads and dims, one training example at a time, on the CPU.

    Of the labels: a student that equals its teacher has nothing to learn from it yet.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    shape, device = model.config.shape(), session.device
    masks = {"head": (shape.n_layers, shape.n_heads), "int": (shape.n_layers, shape.d_int)}
    z = {kind: torch.ones(size, device=device, requires_grad=True) for kind, size in masks.items()}
    plan = BatchPlan(session.train.lengths, 1, seed=session.config.seed, epoch=0)
    for index in range(min(SCORED_EXAMPLES, len(session.train))):
        batch = collate(session.train, plan.batch(index), device)
        loss = model(batch=batch.packed, masks=Masks.from_kinds(z), **batch.labels).loss
        gradients = torch.autograd.grad(loss, list(z.values()))
        yield {kind: gradient.cpu() for kind, gradient in zip(z, gradients, strict=True)}
