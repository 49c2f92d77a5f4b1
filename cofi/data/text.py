"""Tasks of the user's own: which columns hold the text, and what the labels are, found from the table itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cofi.data.kinds import AUTO, KINDS
from cofi.data.spans import metrics_of_labels
from cofi.data.squad import QA_DEFAULTS
from cofi.data.task import Task
from cofi.errors import UserError
from cofi.models.class_names import are_numbers

TEXT = Task(name="text", kind=AUTO)

# (text, pair) in the order they are looked for: a pair before a single text, as tables of pairs may carry both
COLUMN_PATTERNS: tuple[tuple[str, str | None], ...] = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("sentence", None),
    ("text", None),
    ("tokens", None),
    ("words", None),
)
QA_COLUMNS = ("question", "context", "answers")
NUMBERING_COLUMNS = ("idx", "id")


def with_kind(task: Task, kind: str) -> Task:
    """The task as one of `kind`, with that kind's metrics; those of words depend on the names of its classes."""
    facts = KINDS[kind]
    names = task.label_names if facts.has_classes else None
    metrics, main_metric = (facts.metrics, facts.main_metric) if facts.metrics else metrics_of_labels(names or ())
    return replace(task, kind=kind, metrics=metrics, main_metric=main_metric, label_names=names)


def with_names(task: Task, names: Sequence[str]) -> Task:
    """The task with a model's names for classes that its rows only number from 0; as it is where they do more or less,
    or the model has numbers itself."""
    numbered = task.has_classes and task.label_names == tuple(str(i) for i in range(len(names)))
    if not numbered or are_numbers(names):
        return task
    return with_kind(replace(task, label_names=tuple(names)), task.kind)


def with_columns(task: Task, columns: Sequence[str], source: str) -> Task:
    """The task with its text columns, found among the `columns` of the table `source` where they are not given.

    A table with question, context and answers makes it question answering. Raises UserError.
    """
    if task.text_column is not None:
        return task
    if task.pair_column is not None:
        raise UserError(f"--pair-column {task.pair_column} needs --text-column as well")
    if task.kind == AUTO and set(QA_COLUMNS) <= set(columns):
        question, context, answers = QA_COLUMNS
        qa = replace(task, text_column=question, pair_column=context, label_column=answers, defaults=QA_DEFAULTS)
        return with_kind(qa, "question_answering")
    text, pair = _find_text(task, columns, source)
    return replace(task, text_column=text, pair_column=pair)


def _find_text(task: Task, columns: Sequence[str], source: str) -> tuple[str, str | None]:
    for text, pair in COLUMN_PATTERNS:
        if text in columns and (pair is None or pair in columns):
            return text, pair
    others = [name for name in columns if name not in (task.label_column, *NUMBERING_COLUMNS)]
    if len(others) == 1:
        return others[0], None
    raise UserError(f"cannot tell which column of {source} is the text: name it with --text-column ({listed(columns)})")


def listed(columns: Sequence[str]) -> str:
    return f"columns: {', '.join(columns)}" if columns else "it has no columns"
