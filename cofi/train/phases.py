"""The phases of a run: teacher, distil, prune, finetune. Each takes up where a checkpoint left it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from cofi.distill import STRATEGIES, LayerDistillation
from cofi.models import CompactModel
from cofi.prune import compact, compact_transform
from cofi.train.config import TrainConfig
from cofi.train.loop import PhaseLength, PhaseLoop, Position
from cofi.train.objective import Objective, Student
from cofi.train.optim import PhaseOptimizers, linear_schedule, weight_optimizer
from cofi.train.precision import compute_dtype
from cofi.train.selection import Evaluator, load_student_state, student_state
from cofi.train.session import Session
from cofi.train.teacher import Teacher, make_teacher


def run_teacher(session: Session, model: CompactModel) -> CompactModel:
    """Fine-tune `model` on the labels; the best state becomes the teacher."""
    config = session.config
    student = Student(model)
    evaluator = _run(session, "teacher", student, None, config.teacher_epochs, config.teacher_learning_rate, decay=True)
    load_student_state(student, evaluator.best.load())
    return model


def run_distil(session: Session, model: CompactModel) -> Student:
    """Distil into the unmasked student (the paper's pre-pruning fine-tuning); the last state goes on."""
    config = session.config
    student = Student(model, _new_distiller(session, model))
    if config.resolved_distil_epochs > 0 and not session.is_past("distil"):
        _run(
            session,
            "distil",
            student,
            session.outputs,
            config.resolved_distil_epochs,
            config.learning_rate,
            decay=False,
        )
    return student


def run_prune(
    session: Session, student: Student, give_gates: Callable[[Session, Student], None], epochs: float
) -> dict[str, Any]:
    """Learn the masks. Returns the best state under the sparsity condition: tensors, score, sparsities, structure."""
    config = session.config
    give_gates(session, student)
    if session.is_past("prune"):
        return Evaluator(session, "prune", student).best.load()
    evaluator = _run(session, "prune", student, session.outputs, epochs, config.learning_rate, decay=True)
    if not evaluator.best.found:
        constraint = student.held_to
        least = constraint.target.shown(constraint.target.goal - constraint.epsilon)
        session.monitor.message(
            f"[yellow]No evaluation reached {least:.3f} {constraint.counts} {constraint.target.unit}: "
            "taking the last state. Prune for longer, ramp up sooner or raise --reg-learning-rate.[/yellow]"
        )
        evaluator.offer_last()
    return evaluator.best.load()


def run_finetune(session: Session, student: Student, best: dict[str, Any], epochs: float) -> CompactModel:
    """Cut the model to what the masks keep and train that further; the best state is the result."""
    config = session.config
    load_student_state(student, best)
    assert student.gates is not None
    masks = student.gates.deterministic(best.get("shifts")).detach()
    small = Student(compact(student.model, masks))
    _freeze_embeddings(session, small.model)
    small.distiller = _new_distiller(session, small.model)
    if student.distiller is not None and small.distiller is not None:
        transform = student.distiller.transform
        small.distiller.transform.weight.data.copy_(compact_transform(transform.weight.data, masks))
        small.distiller.transform.bias.data.copy_(transform.bias.data)
    decay = config.finetune_schedule == "linear"
    evaluator = _run(session, "finetune", small, session.outputs, epochs, config.finetune_learning_rate, decay=decay)
    load_student_state(small, evaluator.best.load())
    return small.model


def initial_student(session: Session, model: CompactModel | None) -> CompactModel:
    """The student before pruning: a copy of the teacher, or `model`."""
    assert session.teacher is not None or model is not None
    student = copy.deepcopy(session.teacher) if model is None else model
    assert student is not None
    student.to(session.device)  # type: ignore[arg-type]  # transformers annotates the method away
    student.requires_grad_(True)
    _freeze_embeddings(session, student)
    return student


def prepare_outputs(session: Session, student: CompactModel) -> None:
    """Make what gives the teacher's outputs, of as many layers as may be matched; nothing without distillation."""
    config, teacher = session.config, session.teacher
    if not config.distill or teacher is None:
        return
    depths = teacher.config.num_hidden_layers, student.config.num_hidden_layers
    strategy = STRATEGIES[config.matching](*depths, config.matched_layers)
    layers = strategy.candidates if config.layer_weight > 0 else ()
    lowered = compute_dtype(config.precision, session.device)
    if lowered is not None:  # it is frozen: a copy, as the one in fp32 is evaluated and copied to the student
        teacher = copy.deepcopy(teacher).to(lowered)  # type: ignore[arg-type]  # as in initial_student
    session.outputs, message = make_teacher(
        teacher, layers, session.shown.split, config.teacher_cache, session.run.teacher_outputs, session.world
    )
    session.monitor.message(message)


def _freeze_embeddings(session: Session, model: CompactModel) -> None:
    if session.config.freeze_embeddings:
        model.embeddings.requires_grad_(False)


def _new_distiller(session: Session, model: CompactModel) -> LayerDistillation | None:
    config, teacher = session.config, session.teacher
    if teacher is None or session.outputs is None or not session.outputs.layers:
        return None
    return LayerDistillation(
        d_teacher=teacher.config.hidden_size,
        d_student=model.config.hidden_size,
        n_teacher_layers=teacher.config.num_hidden_layers,
        n_student_layers=model.config.num_hidden_layers,
        strategy=config.matching,
        count=config.matched_layers,
    ).to(session.device)


def _optimizers(config: TrainConfig, student: Student, steps: int, lr: float, decay: bool) -> PhaseOptimizers:
    weights = weight_optimizer(student.modules(), lr, config.weight_decay)
    schedule = linear_schedule(weights, steps, config.lr_warmup, decay)
    return PhaseOptimizers(
        weights, schedule, config.max_grad_norm, student.gates, student.lagrangian, config.reg_learning_rate
    )


def _run(
    session: Session,
    phase: str,
    student: Student,
    teacher: Teacher | None,
    epochs: float,
    lr: float | None,
    *,
    decay: bool,
) -> Evaluator:
    """Run one phase to its end, from its start or from the checkpoint."""
    assert lr is not None  # settled when the run began
    config = session.config
    length = PhaseLength.of(len(session.train), config.batch_size, epochs)
    student.compute_dtype = compute_dtype(config.precision, session.device)
    optimizers = _optimizers(config, student, length.steps, lr, decay)
    evaluator = Evaluator(session, phase, student, length.steps_per_epoch)
    before, started = session.seconds.get(phase, 0.0), session.monitor.seconds

    def save(position: Position) -> None:
        session.global_step = position.global_step
        session.seconds[phase] = before + session.monitor.seconds - started
        state = {**student_state(student), "optimizers": optimizers.state_dict(), "phase_step": position.phase_step}
        session.save(phase, {**state, "best_score": evaluator.best.score, "last_score": evaluator.last_score})

    position = _begin(session, phase, student, optimizers, evaluator, length.steps)
    objective = Objective(phase, session.task.kind, config, teacher, session.world)
    tools = config, session.shown, length, session.monitor, session.guard
    loop = PhaseLoop(phase, *tools, evaluate=evaluator, save=save, world=session.world)
    loop.run(student, objective, optimizers, position)
    if length.steps == 0:
        save(position)
    session.scores[phase] = evaluator.best.score
    return evaluator


def _begin(
    session: Session, phase: str, student: Student, optimizers: PhaseOptimizers, evaluator: Evaluator, steps: int
) -> Position:
    """Where the phase starts: at the checkpoint, with all that is in it, or at its first step."""
    restored = session.restored(phase)
    if restored is None:
        position = Position(0, session.global_step)
        if phase == "finetune" or steps == 0:
            evaluator(position)  # the cut model before any training is a candidate too
        return position
    load_student_state(student, restored)
    optimizers.load_state_dict(restored["optimizers"])
    evaluator.restore(restored)
    session.resumed = None
    return Position(restored["phase_step"], restored["global_step"])
