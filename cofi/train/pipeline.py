"""A whole run: inputs, teacher, distillation, pruning, fine-tuning, measurement, result."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import zlib
from pathlib import Path
from typing import Any, cast

from rich.markup import escape

from cofi.errors import UserError, first_few
from cofi.machine import pick_device, set_threads
from cofi.memory import keep_freed_memory
from cofi.models import CompactConfig, CompactModel
from cofi.models.save import save_model
from cofi.profile.profile import Profile
from cofi.train.augmentation import Augmenter, load_augmenter
from cofi.train.calibration import calibrate
from cofi.train.config import TrainConfig
from cofi.train.constraint import check_reach, describe, load_profile
from cofi.train.distributed import ALONE, World
from cofi.train.inputs import Inputs, load_inputs
from cofi.train.interrupt import SignalGuard
from cofi.train.methods import pruning_of
from cofi.train.monitor import Monitor, require_tensorboard, truncate
from cofi.train.phases import initial_student, prepare_outputs, run_distil, run_finetune, run_prune, run_teacher
from cofi.train.precision import check_precision
from cofi.train.rates import settle_rates
from cofi.train.result import judge_teacher, write_result, write_teacher_result
from cofi.train.rundir import RunDirectory
from cofi.train.selection import checksum
from cofi.train.session import Session, read_last_checkpoint


def train(
    config: TrainConfig, run: RunDirectory, world: World = ALONE, guard: SignalGuard | None = None
) -> dict[str, Any] | None:
    """Do the run that `config` describes, or what is left of it, together with the other processes of `world`.

    Returns the content of result.json; None in a process that is not the main one, which leaves when nothing is left to
    train. Raises UserError for anything the user can mend, Interrupted when a signal stopped it after saving. One that
    comes when there is no step left to stop after is noted in `guard` alone: the run ends as it would have.
    """
    set_threads(config.threads)
    if config.tensorboard:
        require_tensorboard()
    if config.batch_size < world.size:
        raise UserError(
            f"--batch-size is shared out over the processes and must be at least their number, {world.size}, "
            f"got {config.batch_size}"
        )
    device = pick_device(world.device_name(config.device))
    check_precision(config.precision, device)
    world.connect(device)
    if device.type == "cpu":
        keep_freed_memory()
    checkpoint = read_last_checkpoint(run, config) if config.resume else None
    kept = run.teacher if checkpoint is not None and (run.teacher / "config.json").is_file() else None
    inputs = load_inputs(config, kept)
    config = settle_rates(config, inputs.student.config.hidden_size)
    student = cast(CompactConfig, inputs.student.config)
    profile = load_profile(config, run, student)
    check_reach(config, student.shape(), profile)
    augmenter = load_augmenter(config, run, inputs)
    world.require_same("rows to train on", lambda: zlib.crc32(inputs.train.input_ids.values.tobytes()))
    with contextlib.ExitStack() as held:
        world.decide(lambda: _prepare(config, run, checkpoint, profile, held))  # all have read what they need by now
        config = dataclasses.replace(config, overwrite=False)  # it is done, and no setting to continue the run with
        guard = held.enter_context(guard or SignalGuard())
        monitor = held.enter_context(_monitor(config, run, checkpoint, world))
        guard.say = monitor.message
        session = Session(
            config, run, device, inputs.task, inputs.train, inputs.validation, monitor, guard, world, profile=profile
        )
        if checkpoint is not None:
            session.take_up(checkpoint)
        return _phases(session, inputs, augmenter)


def _prepare(
    config: TrainConfig,
    run: RunDirectory,
    checkpoint: dict[str, Any] | None,
    profile: Profile | None,
    held: contextlib.ExitStack,
) -> None:
    held.enter_context(run.held())
    if not config.resume:
        run.start(config)
        if profile is not None:
            profile.save(run.profile)
    run.checkpoints.mkdir(exist_ok=True)
    truncate(run.metrics, checkpoint["metrics_position"] if checkpoint else 0)


def _monitor(config: TrainConfig, run: RunDirectory, checkpoint: dict[str, Any] | None, world: World) -> Monitor:
    if not world.is_main:
        return Monitor(Path(os.devnull), quiet=True)
    elapsed = checkpoint["elapsed"] if checkpoint else 0.0
    return Monitor(run.metrics, seconds=elapsed, tensorboard=run.tensorboard if config.tensorboard else None)


def _phases(session: Session, inputs: Inputs, augmenter: Augmenter | None) -> dict[str, Any] | None:
    if session.world.is_main:
        _announce(session, inputs)
    session.teacher = teacher = _teacher(session, inputs)
    session.world.require_same("teacher", lambda: checksum(teacher))
    score = judge_teacher(session)
    if session.config.teacher_only:
        session.world.leave()
        return write_teacher_result(session, score) if session.world.is_main else None
    if augmenter is not None:
        session.shown = augmenter.editions(session)
    dense = initial_student(session, inputs.start)
    prepare_outputs(session, dense)
    student = run_distil(session, dense)
    pruning = pruning_of(session.config)
    best = calibrate(session, student, run_prune(session, student, pruning.give_gates, pruning.prune_epochs))
    small = run_finetune(session, student, best, pruning.finetune_epochs)
    session.world.leave()
    if not session.world.is_main:
        return None
    save_model(small, inputs.tokenizer, session.run.model)
    result = write_result(session, score, best, student.model, small)
    session.run.remove_intermediates()
    return result


def _announce(session: Session, inputs: Inputs) -> None:
    rows = f"{len(inputs.train):,} rows to train on, {inputs.validation.n_examples:,} to evaluate on"
    where = str(session.device) if session.world.size == 1 else f"{session.world.size} x {session.device.type}"
    task = session.task
    classes = f" of {len(task.label_names)} ({escape(first_few(task.label_names))})" if task.label_names else ""
    session.monitor.message(f"{task.name}: {task.kind}{classes}, {rows}, {escape(session.config.model)}, {where}")
    for name, split in (("to train on", inputs.train), ("to evaluate on", inputs.validation)):
        overlap = None if split is inputs.train else split.describe_overlap(inputs.train)
        missing = split.describe_missing(task.label_names or ())
        for about in (split.describe_cut(), missing, overlap):
            if about is not None:
                session.monitor.message(f"{name}: {escape(about)}")
    if session.profile is not None and session.config.target_speedup is not None:
        session.monitor.message(describe(session.profile, session.config.target_speedup))
    if session.world.size > 1 and session.device.type == "cuda" and session.config.cuda_graphs:
        session.monitor.message(
            "steps run without CUDA graphs: several processes exchange numbers in the middle of one"
        )


def _teacher(session: Session, inputs: Inputs) -> CompactModel:
    """The teacher, fine-tuned first if its head is new, and kept in the run."""
    teacher = inputs.teacher.model
    teacher.to(session.device)  # type: ignore[arg-type]  # transformers annotates the method away
    if not inputs.teacher.head_trained:
        session.monitor.message(f"{escape(session.config.model)} has no head of this task yet: it is fine-tuned first")
        teacher = run_teacher(session, teacher)
    elif session.config.teacher is None and not session.config.resume:
        session.monitor.message(f"{escape(session.config.model)} is its own teacher as it is")
    if session.world.is_main and not (session.run.teacher / "config.json").is_file():
        save_model(teacher, inputs.tokenizer, session.run.teacher)
    return teacher.eval().requires_grad_(False)
