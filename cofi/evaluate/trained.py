"""The models of an evaluation: the one that is judged, and for embeddings the one it is compared with."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cofi.data import Task, load_tokenizer
from cofi.errors import UserError, first_few
from cofi.models import CompactModel
from cofi.models.checkpoint import CONFIG_FILE
from cofi.models.class_names import class_names, output_order
from cofi.models.load import load_model
from cofi.models.locate import locate
from cofi.models.sentence_files import MODULES_FILE
from cofi.train.rundir import RunDirectory

_KINDS = {  # of task, by what a classification head predicts
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}


@dataclass(frozen=True)
class Trained:
    """A model with a trained head, and its tokenizer."""

    source: str
    model: CompactModel
    tokenizer: Any

    @classmethod
    def load(cls, source: str) -> Trained:
        loaded = load_model(locate(source))
        if not loaded.head_trained and (loaded.tokenizer_path / MODULES_FILE).is_file():
            loaded = load_model(loaded.tokenizer_path, head="embedding")  # as Sentence Transformers would
        if not loaded.head_trained:
            raise UserError(f"{source} has no trained head for a task: there is nothing to evaluate")
        return cls(source, loaded.model, load_tokenizer(loaded.tokenizer_path))

    @property
    def kind(self) -> str:
        """The kind of task its head is for."""
        config = self.model.config
        return _KINDS[config.problem] if config.head == "classification" else config.head

    @property
    def label_names(self) -> tuple[str, ...]:
        return class_names(self.model.config.id2label)


def label_order(trained: Trained, task: Task) -> list[int] | None:
    """For each class of the task the model's output; None where the task has no classes.

    Raises UserError where the model's classes are others.
    """
    if not task.has_classes:
        return None
    want = task.label_names or ()
    order = output_order(trained.label_names, want)
    if order is None:
        raise UserError(
            f"the classes of {trained.source} must be those of task {task.name} ({first_few(want)}), "
            f"got {first_few(trained.label_names)}"
        )
    return order


def _teacher_of_run(folder: Path) -> Path | str | None:
    """The teacher of the run that a model comes from: the one it keeps, or, as a point of a sweep keeps none, the one
    it was given; None where there is no run."""
    run = RunDirectory.of_model(folder)
    if run is None:
        return None
    if (run.teacher / CONFIG_FILE).is_file():
        return run.teacher
    config = run.read_config()
    return config.teacher or config.model


def load_reference(options: argparse.Namespace, trained: Trained, task: Task) -> CompactModel | None:
    """The model that embeddings are compared with, where they are. Raises UserError."""
    if task.kind != "embedding":
        if options.reference is not None:
            raise UserError(f"--reference is for --task-kind embedding, task {task.name} is {task.kind}")
        return None
    source = options.reference or _teacher_of_run(Path(options.model))
    if source is None:
        raise UserError("--reference must name the model whose embeddings are to be repeated, no run has one")
    loaded = load_model(locate(source), head="embedding")
    model = loaded.model
    if load_tokenizer(loaded.tokenizer_path).get_vocab() != trained.tokenizer.get_vocab():
        raise UserError(f"--reference {source} must have the vocabulary of {trained.source}, whose token ids it reads")
    if model.config.hidden_size != trained.model.config.hidden_size:
        raise UserError(
            f"--reference {source} must make embeddings of as many dims as {trained.source}, "
            f"{trained.model.config.hidden_size}, got {model.config.hidden_size}"
        )
    return model
