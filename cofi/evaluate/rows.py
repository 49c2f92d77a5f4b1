"""The rows of an evaluation: those that the options name, or those of the run that the model comes from."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from cofi.cli import Parser
from cofi.data import load_splits, load_validation
from cofi.data.kinds import AUTO, KINDS
from cofi.data.load import Splits, ValidationSets
from cofi.data.similarity import is_similarity
from cofi.data.tasks import TASKS
from cofi.data.text import with_names
from cofi.errors import UserError
from cofi.evaluate.trained import Trained
from cofi.train.ranges import flag
from cofi.train.rundir import RunDirectory

_COLUMNS = ("text_column", "pair_column", "label_column", "task_kind")
DATA_FLAGS = ("train_file", "validation_file", "validation_fraction", "max_eval_samples", *_COLUMNS)
# what a run trained with, where no flag says otherwise; of its rows what those need that flags name
_TEXT_OF_RUN = ("max_length", "doc_stride", *_COLUMNS)
_ROWS_OF_RUN = ("data", "train_file", "validation_file", "validation_fraction")
_ROWS_BESIDE = {
    (): (*_ROWS_OF_RUN, "max_eval_samples"),
    ("validation_file",): ("data",),  # which makes the name of a task known
    ("validation_fraction",): ("data", "train_file"),
}


def as_in_run(options: argparse.Namespace, usual: Parser, console: Console) -> argparse.Namespace:
    """The options, and for what none of them says the settings of the run that the model comes from, which are shown.

    usual: knows what an option is where nobody says. Raises UserError where there is no task.
    """
    folder = Path(options.model)
    run = RunDirectory.of_model(folder)
    if run is None:
        if options.task is None:
            raise UserError(f"--task must be given for a model that is not in the directory of a run, as {folder}")
        return options
    config = run.read_config()
    if options.task not in (None, config.task):
        return options
    named = tuple(name for name in _ROWS_OF_RUN if getattr(options, name) is not None)
    taken = {
        name: getattr(config, name)
        for name in ("task", *_TEXT_OF_RUN, *_ROWS_BESIDE.get(named, ()))
        if getattr(options, name) == usual.get_default(name) and getattr(config, name) != usual.get_default(name)
    }
    if taken:
        flags = " ".join(f"{flag(name)} {value}" for name, value in taken.items())
        console.print(f"as in {run.root}: {flags}", markup=False, highlight=False, soft_wrap=True)
    return argparse.Namespace(**{**vars(options), **taken})


def load_rows(options: argparse.Namespace, trained: Trained) -> Splits | ValidationSets:
    """The validation sets the options name, read for the classes of the model."""
    request = {name: getattr(options, name) for name in DATA_FLAGS}
    if options.train_file is not None or options.validation_fraction is not None:
        rows: Splits | ValidationSets = load_splits(options.task, data_dir=options.data, **request)
    else:
        own_task = options.task not in TASKS or TASKS[options.task].kind == AUTO
        if own_task and trained.kind in ("regression", "embedding") and options.task_kind == AUTO:
            request["task_kind"] = trained.kind  # whole numbers would pass for classes
        names = trained.label_names if KINDS[trained.kind].has_classes else None
        rows = load_validation(options.task, label_names=names, data_dir=options.data, **request)
    if rows.task.kind != trained.kind and not (trained.kind == "embedding" and is_similarity(rows.task)):
        cure = "; --task-kind embedding takes its texts alone" if trained.kind == "embedding" else ""
        raise UserError(
            f"task {rows.task.name} is {rows.task.kind}, the head of {trained.source} is for {trained.kind}{cure}"
        )
    return replace(rows, task=with_names(rows.task, trained.label_names))
