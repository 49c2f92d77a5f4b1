"""How a run finds what to cut: CoFi's learned masks, or one of the baselines, within the same number of epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cofi.baselines import COFI, MOVEMENT, ONE_SHOT, FixedGates, MovementGates, MovementRamp
from cofi.masks import Constraint, Gates, Lagrangian, SparsityRamp, SparsityStairs, SparsityTarget
from cofi.train.config import TrainConfig
from cofi.train.constraint import make_constraint
from cofi.train.loop import PhaseLength
from cofi.train.objective import Student
from cofi.train.prior import setting_gates
from cofi.train.randomness import derived_seed
from cofi.train.scoring import evidence
from cofi.train.session import Session


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
    kinds = config.kinds
    means = {kind: config.int_init_mean if kind == "int" else config.init_mean for kind in kinds}
    gates = Gates(shape, kinds, init_means=means, rounding=config.rounding, seed=derived_seed(config.seed, "gates"))
    constraint = make_constraint(config, shape, session.profile)
    student.gates = gates.to(session.device)
    student.lagrangian = Lagrangian().to(session.device)
    student.constraint = constraint.to(session.device)
    goal, warmup_steps = constraint.target.goal, _steps(session, config.sparsity_warmup_epochs)
    if config.gate_prior == "fisher":
        last = max(0, _steps(session, config.prune_epochs) - 1)  # a leap after the last step would not be taken
        stairs = SparsityStairs(goal, warmup_steps=min(warmup_steps, last), rounds=config.gate_prior_rounds)
        student.ramp, student.before_step = stairs, setting_gates(session, student, stairs)
    else:
        student.ramp = SparsityRamp(goal, config.start_sparsity, warmup_steps, config.sparsity_ramp)


def _steps(session: Session, epochs: float) -> int:
    return PhaseLength.of(len(session.train), session.config.batch_size, epochs).steps


def _size_held(session: Session, student: Student) -> Constraint:
    """The constraint of methods that choose units: the number of weights, within --sparsity-epsilon."""
    config = session.config
    target = SparsityTarget(student.model.config.shape(), config.sparsity)
    return Constraint(target, epsilon=config.sparsity_epsilon).to(session.device)


def add_movement_gates(session: Session, student: Student) -> None:
    gates = MovementGates(student.model.config.shape()).to(session.device)
    student.gates = gates
    student.constraint = _size_held(session, student)
    warmup_steps = _steps(session, session.config.sparsity_warmup_epochs)
    student.ramp = MovementRamp(session.config.sparsity, warmup_steps=warmup_steps, gates=gates)


def add_fixed_gates(session: Session, student: Student) -> None:
    """Gates of a one-shot method; chosen now, unless the choice was made before the run stopped."""
    masks = None
    if not (session.is_past("prune") or session.restored("prune") is not None):
        session.monitor.message(f"choosing what to keep by {session.config.method} ...")
        masks = ONE_SHOT[session.config.method](evidence(session, student.model))
    student.gates = FixedGates(student.model.config.shape(), masks).to(session.device)
    student.constraint = _size_held(session, student)
    student.ramp = SparsityRamp(session.config.sparsity)
