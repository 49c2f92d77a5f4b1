"""From a column of labels to integers of classes or to numbers. Every bad label is named with its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cofi.data.kinds import AUTO
from cofi.data.label_sets import MAX_INTEGER, LabelSets, are_columns, is_list, names_of
from cofi.data.table import RawTable, column, is_text, refuse
from cofi.data.tagging import holds_words, label_names
from cofi.data.task import Task
from cofi.data.text import with_kind
from cofi.errors import UserError, first_few

MAX_WHOLE = 2.0**53  # float64 has every integer up to here
MAX_NUMBER = 1e18  # squared errors in float32 end at 3e38


def with_labels(task: Task, raw: RawTable) -> Task:
    """The task with its kind and class names, taken from the training table where they are not fixed. Raises UserError.

    Integers, words and truth values are classes, named by their sorted values; numbers with a fraction are regression;
    lists are any number of classes, or beside lists of words the class of each word.
    Whole numbers that are stored as 1.0 may be either: integers become so where one value of a table was missing once.
    """
    if task.kind != AUTO and not task.has_labels:
        return task
    kind = class_kind(task, raw)
    if kind == "token_classification":
        if task.pair_column is not None:
            raise UserError(
                f"--pair-column {task.pair_column} has no place where words have labels: they are of one text"
            )
        return with_kind(replace(task, label_names=label_names(raw, task)), kind)
    if kind == "multi_label":
        names = task.label_names or LabelSets.read(raw, task.label_column).names(raw)
        return replace(with_kind(task, "multi_label"), label_names=names)
    values = _typed(raw, task.label_column)
    if task.kind == AUTO:
        floating = pa.types.is_floating(values.type)
        if floating and _all_whole(values):
            raise UserError(
                f"{raw.source}: column {task.label_column!r} holds whole numbers only, stored as {values[0].as_py()}: "
                "--task-kind must say whether they are classes (classification) or amounts (regression)"
            )
        task = with_kind(task, "regression" if floating else "classification")
    if task.kind == "classification" and task.label_names is None:
        names = names_of(_whole(values, raw, task.label_column), raw, task.label_column)
        task = replace(task, label_names=names)
    return task


def class_kind(task: Task, raw: RawTable) -> str:
    """The task's kind where somebody has said it and it has classes; "token_classification" where nobody has and texts
    are lists, of words, "multi_label" where labels are lists or in several columns; else "classification"."""
    if task.kind != AUTO:
        return task.kind if task.has_classes else "classification"
    if holds_words(raw, task.text_column):
        return "token_classification"
    several = are_columns(raw, task.label_column) or is_list(column(raw, task.label_column).type)
    return "multi_label" if several else "classification"


def label_values(task: Task, raw: RawTable, *, fixed: bool) -> list[Any]:
    """The labels of a table, for a task whose kind and classes are known: integers, numbers, or of several labels rows
    of 0 and 1. Raises UserError.

    fixed: the integers in the file are the classes themselves (GLUE); otherwise they are names of classes.
    """
    if task.kind == "multi_label":
        return LabelSets.read(raw, task.label_column).indicators(task.label_names or (), raw, fixed=fixed)
    values = _typed(raw, task.label_column)
    if task.kind == "regression":
        return _numbers(values, raw, task.label_column)
    assert task.label_names is not None
    values = _whole(values, raw, task.label_column)
    if fixed and pa.types.is_integer(values.type):
        return _class_numbers(values, task.label_names, raw, task.label_column)
    return _class_indices(values, task.label_names, raw, task.label_column)


def _typed(raw: RawTable, name: str) -> pa.ChunkedArray:
    """The column as int64, float64 or string. Text that is all numbers, as a CSV gives it, becomes numbers."""
    values = column(raw, name)
    if pa.types.is_boolean(values.type):
        return values.cast(pa.string())
    if pa.types.is_uint64(values.type):
        refuse(
            pc.greater(values, pa.scalar(MAX_INTEGER, pa.uint64())), values, raw, name, f"must be at most {MAX_INTEGER}"
        )
    if pa.types.is_integer(values.type):
        return values.cast(pa.int64())
    if pa.types.is_floating(values.type):
        return values.cast(pa.float64())
    if not is_text(values.type):
        raise UserError(f"{raw.source}: column {name!r} must hold integers, numbers or words, got {values.type}")
    values = values.cast(pa.string())
    refuse(pc.equal(values, ""), values, raw, name, "must not be empty")
    return _parsed(values) if raw.source.lower().endswith(".csv") else values


def _parsed(values: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        integers = values.cast(pa.int64())
        # 007 is a name: as a number it would not be found again among the names of another file
        return integers if integers.cast(pa.string()).equals(values) else values
    except pa.ArrowInvalid:
        pass
    try:
        return values.cast(pa.float64())
    except pa.ArrowInvalid:
        return values


def _all_whole(values: pa.ChunkedArray) -> bool:
    return bool(pc.all(pc.equal(values, pc.round(values))).as_py())


def _whole(values: pa.ChunkedArray, raw: RawTable, name: str) -> pa.ChunkedArray:
    """Numbers such as 2.0 as integers, for a task that is said to be classification."""
    if not pa.types.is_floating(values.type):
        return values
    bad = pc.or_(pc.invert(pc.is_finite(values)), pc.not_equal(values, pc.round(values)))
    bad = pc.or_(bad, pc.greater(pc.abs(values), MAX_WHOLE))
    refuse(bad, values, raw, name, "must hold whole numbers or words to name classes")
    return values.cast(pa.int64())


def _numbers(values: pa.ChunkedArray, raw: RawTable, name: str) -> list[float]:
    if is_text(values.type):
        words = pc.invert(pc.match_substring_regex(values, r"^[+-]?[0-9.]+([eE][+-]?[0-9]+)?$"))
        refuse(words, values, raw, name, "must hold numbers for regression")
        raise UserError(f"{raw.source}: column {name!r} must hold numbers for regression, got {values.type}")
    values = values.cast(pa.float64())
    refuse(pc.invert(pc.is_finite(values)), values, raw, name, "must hold finite numbers")
    refuse(pc.greater(pc.abs(values), MAX_NUMBER), values, raw, name, f"must be at most {MAX_NUMBER:.0e} in size")
    if len(values) > 1:
        _refuse_test_set(values, "must hold numbers to learn or to compare with", raw, name)
    return values.to_pylist()


def _refuse_test_set(values: pa.ChunkedArray, rule: str, raw: RawTable, name: str) -> None:
    if pc.all(pc.equal(values, -1)).as_py():
        raise UserError(f"{raw.source}: column {name!r} {rule}, all rows are -1: a test set without labels")


def _class_numbers(values: pa.ChunkedArray, names: Sequence[str], raw: RawTable, column_name: str) -> list[int]:
    bad = pc.or_(pc.less(values, 0), pc.greater_equal(values, len(names)))
    rule = f"must be 0 to {len(names) - 1} ({', '.join(names)})"
    _refuse_test_set(values, rule, raw, column_name)
    refuse(bad, values, raw, column_name, rule)
    return values.to_pylist()


def _class_indices(values: pa.ChunkedArray, names: Sequence[str], raw: RawTable, column_name: str) -> list[int]:
    words = values.cast(pa.string())
    indices = pc.index_in(words, pa.array(names, pa.string()))
    refuse(pc.is_null(indices), words, raw, column_name, f"must be one of the classes {first_few(names)}")
    return indices.cast(pa.int64()).to_pylist()
