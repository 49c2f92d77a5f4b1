"""Everything a run reads, loaded and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cofi.data.features import load_tokenizer, tokenize
from cofi.data.load import Splits, load_splits
from cofi.data.predict import check_fit, check_length
from cofi.data.split import TokenizedSplit
from cofi.data.task import Task
from cofi.data.text import with_names
from cofi.errors import UserError, first_few
from cofi.models import CompactModel
from cofi.models.class_names import class_names, output_order
from cofi.models.load import LoadedModel, load_model
from cofi.models.locate import locate
from cofi.train.config import TrainConfig


@dataclass
class Inputs:
    """Data and models of a run. `start` is the student's checkpoint where that is not the teacher."""

    task: Task
    train: TokenizedSplit
    validation: TokenizedSplit
    tokenizer: Any
    teacher: LoadedModel
    start: CompactModel | None

    @property
    def student(self) -> CompactModel:
        """What the student is made from."""
        return self.teacher.model if self.start is None else self.start


def load_inputs(config: TrainConfig, kept_teacher: Path | None) -> Inputs:
    """Read data and models. `kept_teacher` is the finished teacher of a run that is continued.

    Raises UserError for whatever cannot be used; tokenizing, the long part, comes last.
    """
    splits = read_splits(config)
    task = splits.task
    tokenizer = load_tokenizer(kept_teacher or locate(config.model))  # saved with the teacher
    if config.teacher is not None and kept_teacher is None:
        _check_same_vocabulary(config, tokenizer)
    teacher = load_for_task(kept_teacher or locate(config.teacher or config.model), task, config.seed)
    task = with_names(task, class_names(teacher.model.config.id2label))
    _check_teacher(config, task, teacher)
    start = None if config.student_from_teacher else load_for_task(locate(config.model), task, config.seed).model
    student = teacher.model if start is None else start
    _check_same_dims(config, task, teacher.model, student)
    _check_prunable(config, student)
    models = {id(model): model for model in (student, teacher.model)}.values()
    for model in models:
        check_length(model, config.max_length)
    train, validation = (
        tokenize(table, task, tokenizer, config.max_length, config.doc_stride)
        for table in (splits.train, splits.validation)
    )
    for model in models:
        check_fit(model, train)
        check_fit(model, validation)
    return Inputs(task, train, validation, tokenizer, teacher, start)


def read_splits(config: TrainConfig) -> Splits:
    """The rows that a run with these settings trains and is evaluated on. Raises UserError."""
    return load_splits(
        config.task,
        data_dir=config.data,
        train_file=config.train_file,
        validation_file=config.validation_file,
        validation_fraction=config.validation_fraction,
        text_column=config.text_column,
        pair_column=config.pair_column,
        label_column=config.label_column,
        task_kind=config.task_kind,
        max_train_samples=config.max_train_samples,
        max_eval_samples=config.max_eval_samples,
    )


def _check_prunable(config: TrainConfig, student: CompactModel) -> None:
    try:
        student.config.shape()
    except ValueError as error:
        raise UserError(f"--model {config.model} cannot be pruned: {error}") from error


def load_for_task(source: Path, task: Task, seed: int) -> LoadedModel:
    """The model at `source` with a head for `task`; its classes in the task's order and with its names, but for the
    trained head's own where the task has only numbers for them."""
    loaded = load_model(
        source,
        head=task.head,
        num_labels=task.num_labels,
        problem_type=task.kind if task.head == "classification" else None,
        label_names=task.label_names if task.has_classes else None,
        seed=seed,
    )
    if task.has_classes:
        if loaded.head_trained:
            task = with_names(task, class_names(loaded.model.config.id2label))
        _name_labels(loaded, task.label_names or ())
    return loaded


def _name_labels(loaded: LoadedModel, names: tuple[str, ...]) -> None:
    """Give the head the task's class names; a trained head that has them in another order is permuted."""
    config, classifier = loaded.model.config, loaded.model.classifier
    order = output_order(class_names(config.id2label), names) if loaded.head_trained else None
    if order is not None and classifier is not None:
        with torch.no_grad():
            classifier.weight.copy_(classifier.weight[order])
            classifier.bias.copy_(classifier.bias[order])
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def _check_teacher(config: TrainConfig, task: Task, teacher: LoadedModel) -> None:
    if teacher.head_trained:
        return
    wanted = f"task {task.name}"
    if task.label_names is not None:
        wanted += f" (classes {first_few(task.label_names)})"
    if config.teacher is not None:
        raise UserError(f"--teacher {config.teacher} has no head that was trained for {wanted}: fine-tune it first")
    if config.teacher_epochs == 0:
        raise UserError(f"--model {config.model} has no head that was trained for {wanted}, and --teacher-epochs is 0")


def _check_same_dims(config: TrainConfig, task: Task, teacher: CompactModel, student: CompactModel) -> None:
    """An embedding is learned dim by dim."""
    dims, own = teacher.config.hidden_size, student.config.hidden_size
    if task.kind == "embedding" and dims != own:
        raise UserError(
            f"--model {config.model} must make embeddings of as many dims as --teacher {config.teacher}, "
            f"{dims}, got {own}"
        )


def _check_same_vocabulary(config: TrainConfig, tokenizer: Any) -> None:
    """Student and teacher read the same ids, so their vocabularies must be one."""
    if load_tokenizer(locate(str(config.teacher))).get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"--teacher {config.teacher} and --model {config.model} have different vocabularies: "
            "distillation needs the same token ids"
        )
