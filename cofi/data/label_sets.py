"""Labels of which a row has any number: a column of lists, or one column of 0 and 1 for each class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cofi.data.table import RawTable, column, is_text, refuse
from cofi.errors import UserError, first_few

MAX_INTEGER = 2**63 - 1
_CANONICAL = re.compile(r"0|-?[1-9]\d*")  # an integer as text, as no other text names the same one
MAX_CLASSES = 1000  # more distinct labels than this is a wrong column, not a classification task


@dataclass(frozen=True)
class LabelSets:
    """The labels of all rows end to end, integers or words, the row of each, and the number of rows.

    columns: names of the classes, where each has a column
    """

    labels: pa.Array
    rows: NDArray[np.int64]
    n_rows: int
    column: str
    columns: tuple[str, ...] | None = None

    @classmethod
    def read(cls, raw: RawTable, name: str) -> LabelSets:
        """A column of lists, or several columns whose names are given with commas between. Raises UserError."""
        return cls._of_columns(raw, name) if are_columns(raw, name) else cls._of_lists(raw, name)

    @classmethod
    def _of_columns(cls, raw: RawTable, names: str) -> LabelSets:
        columns = tuple(names.split(","))
        if len(set(columns)) < len(columns):
            raise UserError(f"{raw.source}: columns of labels must be named once each, got {names}")
        there = [_zeros_and_ones(raw, name) for name in columns]
        classes, rows = np.nonzero(np.stack(there))
        return cls(pa.array(columns).take(pa.array(classes)), rows, len(there[0]), names, columns)

    @classmethod
    def _of_lists(cls, raw: RawTable, name: str) -> LabelSets:
        values = column(raw, name)
        if not is_list(values.type):
            raise UserError(
                f"{raw.source}: column {name!r} must hold lists of labels, for several a row or one a word (Parquet or "
                f"JSON lines), got {values.type}; where each class has a column, --label-column names them: a,b,c"
            )
        if pa.types.is_null(values.type.value_type):  # which can neither be flattened nor hold a label
            refuse(pc.greater(pc.list_value_length(values), 0), values, raw, name, "must not have a label that is null")
        lists = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
        found = cls(pc.list_flatten(lists), pc.list_parent_indices(lists).to_numpy(), len(lists), name)
        return found._typed(raw)

    def _typed(self, raw: RawTable) -> LabelSets:
        kind = self.labels.type
        if pa.types.is_null(kind):  # every list is empty
            return replace(self, labels=pa.array([], pa.string()))
        if not (pa.types.is_integer(kind) or is_text(kind)):
            raise UserError(f"{raw.source}: column {self.column!r} must hold lists of integers or words, got {kind}")
        self._refuse(pc.is_null(self.labels), raw, "must not have a label that is null")
        if pa.types.is_uint64(kind):
            self._refuse(pc.greater(self.labels, pa.scalar(MAX_INTEGER, kind)), raw, f"must be at most {MAX_INTEGER}")
        words = self.labels.cast(pa.string())
        self._refuse(pc.equal(words, ""), raw, "must not have a label that is empty")
        return replace(self, labels=words if is_text(kind) else self.labels.cast(pa.int64()))

    def names(self, raw: RawTable) -> tuple[str, ...]:
        """The classes: sorted, or in the order of their columns. Raises UserError."""
        return self.columns or names_of(self.labels, raw, self.column)

    def indicators(self, names: Sequence[str], raw: RawTable, *, fixed: bool) -> list[NDArray[np.float32]]:
        """For each row a 1 for every class that it has. fixed: integers are the numbers of the classes, not names.

        Raises UserError for a label that is no class.
        """
        found = np.zeros((self.n_rows, len(names)), dtype=np.float32)
        found[self.rows, self.classes(names, raw, fixed=fixed)] = 1
        return list(found)

    def classes(self, names: Sequence[str], raw: RawTable, *, fixed: bool) -> NDArray[np.int64]:
        """The number of each label among the classes; fixed and errors as for `indicators`."""
        if self.columns is not None and set(self.columns) != set(names):
            raise UserError(
                f"{raw.source}: columns of labels must be those of the classes {first_few(names)}, got {self.column}"
            )
        if fixed and pa.types.is_integer(self.labels.type):
            bad = pc.or_(pc.less(self.labels, 0), pc.greater_equal(self.labels, len(names)))
            self._refuse(bad, raw, f"must have labels from 0 to {len(names) - 1}")
            classes = self.labels
        else:
            classes = pc.index_in(self.labels.cast(pa.string()), pa.array(names, pa.string()))
            self._refuse(pc.is_null(classes), raw, f"must have labels of the classes {first_few(names)}")
        numbers: NDArray[np.int64] = classes.to_numpy(zero_copy_only=False).astype(np.int64)
        return numbers

    def named(self, names: Sequence[str], raw: RawTable) -> LabelSets:
        """The same with words for integers that are numbers among the `names`. Raises UserError."""
        numbers = self.classes(names, raw, fixed=True)
        return replace(self, labels=pa.array(names, pa.string()).take(pa.array(numbers)))

    def refuse_negative(self, raw: RawTable) -> None:
        """Raise UserError for an integer below 0, which stands for no label elsewhere."""
        if pa.types.is_integer(self.labels.type):
            self._refuse(pc.less(self.labels, 0), raw, "must have labels from 0 on")

    def _refuse(self, bad: Any, raw: RawTable, rule: str) -> None:
        """Raise UserError for the first label where `bad` is true."""
        first = pc.index(bad, True).as_py()
        if first >= 0:
            label, row = self.labels[first].as_py(), self.rows[first]
            raise UserError(f"{raw.source}: column {self.column!r} {rule}, got {label!r} in row {row} (counted from 0)")


def are_columns(raw: RawTable, name: str) -> bool:
    """Whether this names several columns."""
    return "," in name and name not in raw.data.column_names


def _zeros_and_ones(raw: RawTable, name: str) -> NDArray[np.bool_]:
    """A column of 0 and 1, or of truth values, in any type; as text in a CSV. Raises UserError."""
    values = column(raw, name)
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise UserError(f"{raw.source}: column {name!r} must hold 0 and 1 for a label, got {values.type}")
    words = values.cast(pa.string())
    is_one = pc.is_in(words, pa.array(["1", "1.0", "true", "True"]))
    bad = pc.invert(pc.or_(is_one, pc.is_in(words, pa.array(["0", "0.0", "false", "False"]))))
    refuse(bad, words, raw, name, "must hold 0 and 1 for a label")
    found: NDArray[np.bool_] = is_one.to_numpy()
    return found


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def names_of(labels: Any, raw: RawTable, name: str) -> tuple[str, ...]:
    """The classes that labels, integers or words, name: sorted, integers as such where text holds nothing else, as a
    CSV gives them. Raises UserError."""
    found = pc.unique(labels).to_pylist()
    found.sort(key=int if all(_CANONICAL.fullmatch(str(label)) for label in found) else None)
    if len(found) < 2:
        what = f"all its labels are {found[0]!r}" if found else "it has no label"
        raise UserError(f"{raw.source}: column {name!r} must hold at least 2 classes, {what}")
    if len(found) > MAX_CLASSES:
        raise UserError(f"{raw.source}: column {name!r} must hold at most {MAX_CLASSES} classes, got {len(found)}")
    return tuple(str(label) for label in found)
