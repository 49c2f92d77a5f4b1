"""A whole run: inputs, teacher, distillation, pruning, fine-tuning, measurement, result."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from cofi.models import CompactModel
from cofi.models.save import save_model
from cofi.train.config import TrainConfig
from cofi.train.inputs import Inputs, load_inputs
from cofi.train.interrupt import SignalGuard
from cofi.train.memory import keep_freed_memory
from cofi.train.methods import pruning_of
from cofi.train.monitor import Monitor, require_tensorboard, truncate
from cofi.train.phases import initial_student, prepare_outputs, run_distil, run_finetune, run_prune, run_teacher
from cofi.train.result import teacher_score, write_result, write_teacher_result
from cofi.train.rundir import RunDirectory
from cofi.train.session import Session, pick_device, read_last_checkpoint, set_threads


def train(config: TrainConfig, run: RunDirectory) -> dict[str, Any]:
    """Do the run that `config` describes, or what is left of it. Returns the content of result.json.

    Raises UserError for anything the user can mend, Interrupted when a signal stopped it after saving.
    """
    set_threads(config.threads)
    if config.tensorboard:
        require_tensorboard()
    device = pick_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    checkpoint = read_last_checkpoint(run, config) if config.resume else None
    kept = run.teacher if checkpoint is not None and (run.teacher / "config.json").is_file() else None
    inputs = load_inputs(config, kept)
    if not config.resume:
        run.start(config)
    run.checkpoints.mkdir(exist_ok=True)
    truncate(run.metrics, checkpoint["metrics_position"] if checkpoint else 0)
    elapsed = checkpoint["elapsed"] if checkpoint else 0.0
    board = run.tensorboard if config.tensorboard else None
    with SignalGuard() as guard, Monitor(run.metrics, seconds=elapsed, tensorboard=board) as monitor:
        session = Session(config, run, device, inputs.task, inputs.train, inputs.validation, monitor, guard)
        if checkpoint is not None:
            session.take_up(checkpoint)
        return _phases(session, inputs)


def _phases(session: Session, inputs: Inputs) -> dict[str, Any]:
    rows = f"{len(inputs.train):,} rows to train on, {inputs.validation.n_examples:,} to evaluate on"
    session.monitor.message(f"{session.task.name}: {rows}, {escape(session.config.model)}, {session.device}")
    session.teacher = _teacher(session, inputs)
    score = teacher_score(session)
    if session.config.teacher_only:
        return write_teacher_result(session, score)
    dense = initial_student(session, inputs.start)
    prepare_outputs(session, dense)
    student = run_distil(session, dense)
    pruning = pruning_of(session.config)
    best = run_prune(session, student, pruning.give_gates, pruning.prune_epochs)
    small = run_finetune(session, student, best, pruning.finetune_epochs)
    save_model(small, inputs.tokenizer, session.run.model)
    result = write_result(session, score, best, student.model, small)
    session.run.remove_teacher_outputs()
    return result


def _teacher(session: Session, inputs: Inputs) -> CompactModel:
    """The teacher, fine-tuned first if its head is new, and kept in the run."""
    teacher = inputs.teacher.model
    teacher.to(session.device)  # type: ignore[arg-type]  # transformers annotates the method away
    if not inputs.teacher.head_trained:
        teacher = run_teacher(session, teacher)
    if not (session.run.teacher / "config.json").is_file():
        save_model(teacher, inputs.tokenizer, session.run.teacher)
    return teacher.eval().requires_grad_(False)
