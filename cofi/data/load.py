"""From a task's name to its checked rows."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from typing import Any

from cofi.data.kinds import AUTO
from cofi.data.labels import class_kind, label_values, with_labels
from cofi.data.sources import DataRequest, base_task, find_extra, find_split
from cofi.data.squad import qa_columns
from cofi.data.table import RawTable, Table, text_column
from cofi.data.tagging import holds_words, with_label_column, word_columns, words_as_texts
from cofi.data.task import Task
from cofi.data.text import with_columns, with_kind
from cofi.errors import UserError
from cofi.models.class_names import is_number


@dataclass(frozen=True)
class Splits:
    """Rows of a task. `task` is complete: kind, columns and class names are known.

    A Table holds the task's text_column, pair_column and label_column; labels are integers of classes or numbers. For
    token classification a text is a list of words, its label an array with the class of each.
    extra: further validation sets by the suffix their metrics take ("mismatched" for MNLI).
    """

    train: Table
    validation: Table
    task: Task
    extra: dict[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class ValidationSets:
    """As Splits, without training rows."""

    validation: Table
    task: Task
    extra: dict[str, Table] = field(default_factory=dict)


def load_splits(name: str, **request: Any) -> Splits:
    """Training and validation rows of task `name`.

    Keyword arguments, all optional: data_dir (holds <task>/train.parquet and <task>/validation.parquet, or .csv,
    .jsonl), train_file and validation_file (instead), validation_fraction (of the training rows, held out by the hash
    of their text when no validation file is given), max_train_samples and max_eval_samples (first N rows),
    text_column, pair_column, label_column, task_kind ("auto", "classification", "multi_label", "regression",
    "token_classification", "embedding").
    Without directory and files the rows come from the hub. Raises UserError naming file, column, row, rule and value.
    """
    asked = DataRequest(**request)
    base = base_task(name, asked)
    raw = find_split(base, "train", asked)
    task = with_labels(_with_columns(base, raw, asked), raw)
    fixed = base.label_names is not None
    if asked.validation_fraction is not None:
        train, validation = _hold_out(_checked(task, raw, fixed, None), asked.validation_fraction, task)
        return Splits(_head(train, asked.max_train_samples), _head(validation, asked.max_eval_samples), task)
    rest = _validation_sets(task, asked, fixed, find_split(task, "validation", asked))
    return Splits(_checked(task, raw, fixed, asked.max_train_samples), rest.validation, task, rest.extra)


def load_validation(name: str, *, label_names: tuple[str, ...] | None = None, **request: Any) -> ValidationSets:
    """Validation rows alone, for a model that is trained already; arguments as for `load_splits`.

    label_names: the model's classes, for a task whose classes its training rows would tell. Integer labels are their
    numbers where these are all words or numbered only (LABEL_0, LABEL_1, ...), else names as well. Raises UserError.
    """
    asked = DataRequest(**request)
    base = base_task(name, asked)
    raw = find_split(base, "validation", asked)
    task = _with_columns(base, raw, asked)
    fixed = base.label_names is not None
    if not fixed and label_names is not None and (task.kind == AUTO or task.has_classes):
        task = with_kind(replace(task, label_names=tuple(label_names)), class_kind(task, raw))
        numbered = all(label == f"LABEL_{i}" for i, label in enumerate(label_names))
        fixed = numbered or not any(map(is_number, label_names))
    return _validation_sets(with_labels(task, raw), asked, fixed, raw)


def _validation_sets(task: Task, asked: DataRequest, fixed: bool, raw: RawTable) -> ValidationSets:
    found = {suffix: find_extra(task, split, asked) for suffix, split in task.extra_validation}
    extra = {
        suffix: _checked(task, table, fixed, asked.max_eval_samples)
        for suffix, table in found.items()
        if table is not None
    }
    return ValidationSets(_checked(task, raw, fixed, asked.max_eval_samples), task, extra)


def _with_columns(task: Task, raw: RawTable, asked: DataRequest) -> Task:
    """The task with the columns that were asked for, and the rest found in the table."""
    given = {
        name: getattr(asked, name)
        for name in ("text_column", "pair_column", "label_column")
        if getattr(asked, name) is not None
    }
    if asked.task_kind == "embedding" and task.kind != "question_answering":
        task = with_kind(task, asked.task_kind)  # of the texts of any task: its labels are left alone
    task = with_columns(replace(task, **given), raw.data.column_names, raw.source)
    if asked.label_column is None:
        task = with_label_column(task, raw)
    labelled = task.kind == AUTO or task.has_labels
    if labelled and task.label_column in (task.text_column, task.pair_column):
        raise UserError(f"{raw.source}: column {task.label_column!r} must hold the labels or the text, not both")
    if asked.task_kind == AUTO or asked.task_kind == task.kind:
        return task
    if task.kind != AUTO:
        raise UserError(f"task {task.name} is {task.kind}; --task-kind cannot make it {asked.task_kind}")
    return with_kind(task, asked.task_kind)


def _checked(task: Task, raw: RawTable, fixed: bool, rows: int | None) -> Table:
    """The first `rows` rows of the columns that the task needs, checked."""
    if rows is not None:
        raw = RawTable(raw.data.slice(0, min(rows, raw.data.num_rows)), raw.source)
    if task.kind == "question_answering":
        return qa_columns(raw, task)
    if task.kind == "token_classification":
        return word_columns(raw, task, fixed=fixed)
    assert task.text_column is not None
    names = [name for name in (task.text_column, task.pair_column) if name is not None]
    may_be_words = task.kind == "embedding"
    columns: dict[str, list[Any]] = {
        name: words_as_texts(raw, name) if may_be_words and holds_words(raw, name) else text_column(raw, name)
        for name in names
    }
    if task.kind == "embedding":
        texts = dict.fromkeys(itertools.chain(*columns.values()))  # each once: a copy tells nothing more
        return Table({task.text_column: list(texts)}, raw.source)
    columns[task.label_column] = label_values(task, raw, fixed=fixed)
    return Table(columns, raw.source)


def _head(table: Table, rows: int | None) -> Table:
    return table if rows is None else table.select(list(range(min(rows, len(table)))))


def _hold_out(table: Table, fraction: float, task: Task) -> tuple[Table, Table]:
    """Training and held-out rows. The hash of the text decides, so that equal texts stay on one side.

    For question answering it is the passage's: two questions about one passage must not be parted either.
    """
    assert task.text_column is not None
    qa = task.kind == "question_answering"
    names = [task.pair_column] if qa else [task.text_column, task.second_column]
    texts = zip(*(table[name] for name in names if name is not None), strict=True)
    held_out = [_unit_hash("\x1f".join(map(_as_text, row))) < fraction for row in texts]
    parts = [table.select([i for i, held in enumerate(held_out) if held is side]) for side in (False, True)]
    for part, word in zip(parts, ("training", "validation"), strict=True):
        if not len(part):
            raise UserError(
                f"validation_fraction {fraction} leaves no {word} rows of the {len(table)} in {table.source}"
            )
    return parts[0], parts[1]


def _as_text(text: str | list[str]) -> str:
    return text if isinstance(text, str) else " ".join(text)


def _unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
