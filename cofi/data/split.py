"""Tokenized rows in flat arrays: no padding, no Python object a token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cofi.errors import first_few


class Ragged:
    """Rows of different length in one flat array: `values` (T,), `starts` (N + 1,) int64, row i = values[starts[i] :
    starts[i + 1]]. Reads like a sequence of arrays; rows are views."""

    def __init__(self, values: NDArray[Any], starts: NDArray[np.int64]) -> None:
        self.values = values
        self.starts = starts

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any] | NDArray[Any]], dtype: DTypeLike) -> Ragged:
        arrays = [np.asarray(row, dtype=dtype) for row in rows]
        starts = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(array) for array in arrays], out=starts[1:])
        return cls(np.concatenate([np.empty(0, dtype=dtype), *arrays]), starts)

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all `parts` (at least one), in order."""
        starts, end = [np.zeros(1, dtype=np.int64)], 0
        for part in parts:
            starts.append(part.starts[1:] + end)
            end += int(part.starts[-1])
        return cls(np.concatenate([part.values for part in parts]), np.concatenate(starts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row must be in [{-len(self)}, {len(self)}), got {row}")
        row = row % len(self)
        return self.values[self.starts[row] : self.starts[row + 1]]

    def __iter__(self) -> Iterator[NDArray[Any]]:
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) int64"""
        return np.diff(self.starts)

    def lengths_of(self, rows: Sequence[int]) -> NDArray[np.int64]:
        """Those of the given rows."""
        index = np.asarray(rows, dtype=np.int64)
        return self.starts[1:][index] - self.starts[index]

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """The given rows, at least one, end to end."""
        return np.concatenate([self[int(row)] for row in rows])


@dataclass(frozen=True)
class Passages:
    """What question answering needs beside the tokens to turn two positions into a text.

    windows: (N,) int64, the example a window (one row of the split) belongs to. ids, contexts, answers: one entry an
    example; answers are the accepted texts. begins, ends: a row a window, int32 character offsets of each token in its
    context, -1 for tokens that are not of the context.
    """

    windows: NDArray[np.int64]
    ids: list[str]
    contexts: list[str]
    answers: list[list[str]]
    begins: Ragged
    ends: Ragged


@dataclass(frozen=True)
class TokenizedSplit:
    """Token sequences of one split, in its order; for question answering a long passage gives several (windows).

    input_ids: int32 rows; token_type_ids: int8 rows of the same lengths.
    labels: (N,) int64 classes or float32 numbers, (N, C) float32 of 0 and 1 for several labels a row, (N, E) float32
    embeddings that are compared with, or None; also for question answering, which has start_positions and
    end_positions, (N,) int64 token columns of the first and last token of the answer (0, the first token, where the
    window does not hold the whole answer) and `passages`; and for token classification, which has token_labels: int64
    rows of the classes of tokens, IGNORED (-100) for those that no word begins with.
    cut: number of sequences that the longest allowed length has cost their end.
    """

    input_ids: Ragged
    token_type_ids: Ragged
    labels: NDArray[Any] | None = None
    start_positions: NDArray[np.int64] | None = None
    end_positions: NDArray[np.int64] | None = None
    passages: Passages | None = None
    token_labels: Ragged | None = None
    cut: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    def describe_cut(self) -> str | None:
        """What to tell of texts that lost their end, if any did."""
        if not self.cut:
            return None
        return f"{self.cut:,} of {len(self):,} texts are cut at {self.lengths.max()} tokens (--max-length)"

    def describe_overlap(self, other: TokenizedSplit) -> str | None:
        """What to tell of texts to evaluate on that are among those to train on, `other`, if any are."""
        known = {row.tobytes() for row in other.input_ids}
        shared = sum(row.tobytes() in known for row in self.input_ids)
        if not shared:
            return None
        return f"{shared:,} of {len(self):,} texts are among those to train on: scores of new texts may be lower"

    def describe_missing(self, names: Sequence[str]) -> str | None:
        """What to tell of classes, called `names`, that no row has, if there are any."""
        if self.token_labels is not None:
            there = np.unique(self.token_labels.values)
        elif self.labels is not None:
            there = np.unique(self.labels) if self.labels.ndim == 1 else np.flatnonzero(self.labels.any(0))
        else:
            return None
        missing = [name for number, name in enumerate(names) if number not in there]
        if not missing:
            return None
        return f"no row is of class {first_few(missing)}; a file in the order of its classes must be shuffled first"

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) int64 tokens of each sequence."""
        return self.input_ids.lengths

    @property
    def n_examples(self) -> int:
        """Rows of the table that was tokenized; fewer than sequences where passages were cut into windows."""
        return len(self) if self.passages is None else len(self.passages.ids)
