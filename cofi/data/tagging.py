"""Labels of words (names, parts of speech, punctuation): checked rows, and a label at the first token of each word."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cofi.data.label_sets import LabelSets, is_list
from cofi.data.split import Ragged, TokenizedSplit
from cofi.data.table import RawTable, Table, column, is_text
from cofi.data.task import Task
from cofi.errors import UserError
from cofi.models.heads import IGNORED

CHUNK_ROWS = 1000


def label_names(raw: RawTable, task: Task) -> tuple[str, ...]:
    """The labels that words of a training table have, in the order of their numbers. Raises UserError.

    Integers are named by the file itself where the package datasets has written it, as such files say.
    """
    return _names_in_file(raw, task.label_column) or LabelSets.read(raw, task.label_column).names(raw)


def word_columns(raw: RawTable, task: Task, *, fixed: bool) -> Table:
    """Columns of words and of their labels' numbers, a list of equal length each. Raises UserError.

    fixed: integers in the file are the numbers of the labels, as they are where the file names them.
    """
    assert task.text_column is not None and task.label_names is not None
    words = _words(raw, task.text_column)
    labels = LabelSets.read(raw, task.label_column)
    fixed = fixed or _names_in_file(raw, task.label_column) is not None
    numbers = labels.classes(task.label_names, raw, fixed=fixed)
    lengths = np.bincount(labels.rows, minlength=labels.n_rows)
    for row, (some, count) in enumerate(zip(words, lengths.tolist(), strict=True)):
        if len(some) != count:
            raise UserError(
                f"{raw.source}: column {task.label_column!r} must have a label for each word of {task.text_column!r}, "
                f"got {count} for {len(some)} in row {row} (counted from 0)"
            )
    if not numbers.size:
        raise UserError(f"{raw.source}: column {task.text_column!r} has no words")
    return Table(
        {task.text_column: words, task.label_column: np.split(numbers, np.cumsum(lengths)[:-1])},
        raw.source,
    )


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
    """Names of the numbers in a column of lists, which the package datasets writes into the schema of its files."""
    try:
        about = json.loads((raw.data.schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][name]["feature"]["names"]
        kind = raw.data.schema.field(name).type
    except (KeyError, TypeError, ValueError):
        return None
    are_words = isinstance(names, list) and all(isinstance(label, str) for label in names)
    is_fit = is_list(kind) and pa.types.is_integer(kind.value_type) and are_words
    return tuple(names) if is_fit and 1 < len(set(names)) == len(names) else None


def tokenize_words(
    table: Table, task: Task, tokenizer: Any, max_length: int, progress: Callable[[int], None] | None = None
) -> TokenizedSplit:
    """Words with spaces between as sequences of at most max_length tokens, with the label of a word at its first token.

    As a text that a user types: a tokenizer that takes words one by one may cut the first of them otherwise.
    tokenizer: a fast tokenizer of transformers. progress(n) is called with the number of rows done.
    """
    assert task.text_column is not None
    words, labels = table[task.text_column], table[task.label_column]
    ids, types, marks, cut = [], [], [], 0
    for first in range(0, len(table), CHUNK_ROWS):
        rows = slice(first, first + CHUNK_ROWS)
        encoded = tokenizer(
            [" ".join(row) for row in words[rows]],
            truncation=True,
            max_length=max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        ids.append(Ragged.of(encoded["input_ids"], np.int32))
        types.append(Ragged.of(encoded["token_type_ids"], np.int8))
        each = zip(encoded.encodings, words[rows], labels[rows], strict=True)
        marks.append(Ragged.of((_at_tokens(row, *rest) for row, *rest in each), np.int64))
        cut += sum(len(row) == max_length and bool(row.overflowing) for row in encoded.encodings)
        if progress is not None:
            progress(min(first + CHUNK_ROWS, len(table)))
    return TokenizedSplit(Ragged.join(ids), Ragged.join(types), token_labels=Ragged.join(marks), cut=cut)


def _at_tokens(encoding: Any, words: Sequence[str], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(S,) the label of a word at its first token, IGNORED at all others; encoding: of the words joined by spaces."""
    found = np.full(len(encoding.ids), IGNORED, dtype=np.int64)
    begins = np.cumsum([0, *(len(word) + 1 for word in words)])[:-1]
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    read = np.flatnonzero((offsets[:, 1] > offsets[:, 0]) & (np.asarray(encoding.special_tokens_mask) == 0))
    # by its last character: some tokenizers count the space before a word to its first token
    word = np.searchsorted(begins, offsets[read, 1] - 1, side="right") - 1
    which, first = np.unique(word, return_index=True)
    found[read[first]] = labels[which]
    return found
