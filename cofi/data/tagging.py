"""Labels of words (names, parts of speech, punctuation): checked rows, and a label at the first token of each word."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cofi.data.encode import encode
from cofi.data.label_sets import MAX_CLASSES, LabelSets, is_list
from cofi.data.split import Ragged, TokenizedSplit
from cofi.data.table import RawTable, Table, column, is_text
from cofi.data.task import Task
from cofi.errors import UserError
from cofi.models.class_names import are_numbers
from cofi.models.heads import IGNORED

LABEL_COLUMNS = ("ner_tags", "tags", "labels")  # where the label column is not named, and none is called as usual


def holds_words(raw: RawTable, name: str | None) -> bool:
    """Whether a column of the table holds lists."""
    return name in raw.data.column_names and is_list(raw.data.schema.field(name).type)


def with_label_column(task: Task, raw: RawTable) -> Task:
    """The task with the column of the words' labels, for one whose label column nobody has named."""
    names = raw.data.column_names
    if task.label_column in names or not holds_words(raw, task.text_column):
        return task
    return replace(task, label_column=next((name for name in LABEL_COLUMNS if name in names), task.label_column))


def label_names(raw: RawTable, task: Task) -> tuple[str, ...]:
    """The labels that words may have, in the order of their numbers: the task's; where it has none, or numbers, those
    that the file names, as the package datasets writes them; else those that its words have. Raises UserError."""
    there = _names_in_file(raw, task.label_column)
    if task.label_names is not None:
        fit = there is not None and len(there) == len(task.label_names) and are_numbers(task.label_names)
        return there if fit and there is not None else task.label_names
    if there is not None:
        return there
    labels = LabelSets.read(raw, task.label_column)
    labels.refuse_negative(raw)
    return labels.names(raw)


def word_columns(raw: RawTable, task: Task, *, fixed: bool) -> Table:
    """Columns of words and of their labels' numbers, a list of equal length each. Raises UserError.

    Integers that the file itself names are those names. fixed: others are the numbers of the labels.
    """
    assert task.text_column is not None and task.label_names is not None
    words = _words(raw, task.text_column)
    labels, there = LabelSets.read(raw, task.label_column), _names_in_file(raw, task.label_column)
    if there is not None and not are_numbers(task.label_names):
        labels = labels.named(there, raw)
    numbers = labels.classes(task.label_names, raw, fixed=fixed)
    lengths = np.bincount(labels.rows, minlength=labels.n_rows)
    for row, (some, count) in enumerate(zip(words, lengths.tolist(), strict=True)):
        if len(some) != count:
            raise UserError(
                f"{raw.source}: column {task.label_column!r} must have a label for each word of {task.text_column!r}, "
                f"got {count} for {len(some)} in row {row} (counted from 0)"
            )
    return Table(
        {task.text_column: words, task.label_column: np.split(numbers, np.cumsum(lengths)[:-1])},
        raw.source,
    )


def words_as_texts(raw: RawTable, name: str) -> list[str]:
    """A column of lists of words as texts, with spaces between. Raises UserError."""
    return [" ".join(row) for row in _words(raw, name)]


def _words(raw: RawTable, name: str) -> list[list[str]]:
    values = column(raw, name)
    if not is_list(values.type) or not is_text(values.type.value_type):
        raise UserError(
            f"{raw.source}: column {name!r} must hold lists of words for labels of words (Parquet or JSON lines), "
            f"got {values.type}"
        )
    flat = pc.list_flatten(values)
    if flat.null_count:
        row = pc.list_parent_indices(values)[pc.index(pc.is_null(flat), True).as_py()].as_py()
        raise UserError(f"{raw.source}: column {name!r} must hold words, got null in row {row} (counted from 0)")
    rows: list[list[str]] = values.to_pylist()
    return rows


def _names_in_file(raw: RawTable, name: str) -> tuple[str, ...] | None:
    """Names of the integers in a column of lists, which the package datasets writes into the schema of its files.

    None where there are none, or none that could be used: they come from anybody.
    """
    try:
        about = json.loads((raw.data.schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][name]["feature"]["names"]
        kind = raw.data.schema.field(name).type
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    are_words = isinstance(names, list) and all(isinstance(label, str) and _is_printable(label) for label in names)
    is_fit = are_words and is_list(kind) and pa.types.is_integer(kind.value_type)
    return tuple(names) if is_fit and 1 < len(set(names)) == len(names) <= MAX_CLASSES else None


def _is_printable(label: str) -> bool:
    """Neither empty nor half of a surrogate pair, which no file can hold."""
    return bool(label) and label.encode(errors="ignore").decode() == label


def tokenize_words(
    table: Table, task: Task, tokenizer: Any, max_length: int, progress: Callable[[int], None] | None = None
) -> TokenizedSplit:
    """Words with spaces between as sequences of at most max_length tokens, with the label of a word at its first token.

    As a text that a user types: a tokenizer that takes words one by one may cut the first of them otherwise.
    tokenizer: a fast tokenizer of transformers. progress(n) is called with the number of rows done.
    """
    assert task.text_column is not None
    words, labels = table[task.text_column], table[task.label_column]
    marks: list[NDArray[np.int64]] = []

    def mark(rows: slice, encodings: Sequence[Any]) -> None:
        marks.extend(map(_at_tokens, encodings, words[rows], labels[rows]))

    ids, types, cut = encode([" ".join(row) for row in words], None, tokenizer, max_length, progress, mark)
    token_labels = Ragged.of(marks, np.int64)
    if not (token_labels.values != IGNORED).any():
        raise UserError(f"{table.source}: column {task.text_column!r} must hold words, none has a token")
    return TokenizedSplit(ids, types, token_labels=token_labels, cut=cut)


def _at_tokens(encoding: Any, words: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) the label of a word at its first token, IGNORED at all others; encoding: of the words joined by spaces."""
    found = np.full(len(encoding.ids), IGNORED, dtype=np.int64)
    text, begins = " ".join(words), np.cumsum([0, *(len(word) + 1 for word in words)])[:-1]
    offsets, special = encoding.offsets, encoding.special_tokens_mask
    # of a word: neither special nor a space alone
    read = [i for i, (begin, end) in enumerate(offsets) if not special[i] and text[begin:end].strip()]
    # by its last character: some tokenizers count the space before a word to its first token
    last = [offsets[i][1] - 1 for i in read]
    which, first = np.unique(np.searchsorted(begins, last, side="right") - 1, return_index=True)
    found[np.asarray(read, dtype=np.int64)[first]] = labels[which]
    return found
