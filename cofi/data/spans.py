"""Scores of labels of words: of each word, and of the spans that labels such as B-PER and I-PER join."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cofi.data.metrics import accuracy, f1_macro
from cofi.data.split import Ragged
from cofi.models.heads import IGNORED

OUTSIDE = "O"  # label of a word that is in no span
SPAN_METRICS = (("f1", "precision", "recall", "accuracy"), "f1")  # where there is such a label
WORD_METRICS = (("accuracy", "f1_macro"), "accuracy")
_PREFIXED = re.compile(r"([BIMELSU])-(.+)", re.DOTALL)


@dataclass(frozen=True)
class _Scheme:
    """What each label says, all (C,): whether its word is in a span, the span's type, whether the span begins or ends
    with the word whatever its neighbours are.

    Labels with the prefixes of BIO, BIOES, BMES or BILOU join neighbours of one type; others are spans of one word.
    """

    inside: NDArray[np.bool_]
    kind: NDArray[np.int64]
    opens: NDArray[np.bool_]
    closes: NDArray[np.bool_]

    @classmethod
    def of(cls, names: Sequence[str]) -> _Scheme:
        parts = {name: (name[0], name[2:]) if _PREFIXED.fullmatch(name) else ("S", name) for name in names}
        parts[OUTSIDE] = ("O", "")
        kinds = sorted({kind for _, kind in parts.values()})
        return cls(
            np.array([name != OUTSIDE for name in names]),
            np.array([kinds.index(parts[name][1]) for name in names]),
            np.array([parts[name][0] in "BSU" for name in names]),
            np.array([parts[name][0] in "ELSU" for name in names]),
        )

    def spans(self, labels: Ragged) -> set[tuple[int, int, int]]:
        """(first word, word behind the last, type) of every span in rows of labels, words counted through all rows.

        As the CoNLL-2000 script reads them: an I that follows another type, or nothing, begins a span.
        """
        values = labels.values
        inside, kind = self.inside[values], self.kind[values]
        new_row = np.zeros(len(values) + 1, dtype=bool)
        new_row[labels.starts] = True  # of an empty row it is the next one's
        joined = inside[1:] & inside[:-1] & (kind[1:] == kind[:-1]) & ~new_row[1:-1]
        joined &= ~self.opens[values[1:]] & ~self.closes[values[:-1]]
        begins = np.flatnonzero(inside & ~np.concatenate([[False], joined]))
        ends = np.flatnonzero(inside & ~np.concatenate([joined, [False]])) + 1
        return set(zip(begins.tolist(), ends.tolist(), kind[begins].tolist(), strict=True))


def label_metrics(names: Sequence[str], predictions: Ragged, references: Ragged) -> dict[str, float]:
    """SPAN_METRICS of labels, a row a text, where one of the `names` is "O", else WORD_METRICS; fractions.

    f1, precision, recall: of spans, which must be found whole, all types together. accuracy: of words, "O" too.
    """
    words = {"accuracy": accuracy(predictions.values, references.values)}
    if OUTSIDE not in names:
        return words | {"f1_macro": f1_macro(predictions.values, references.values)}
    scheme = _Scheme.of(names)
    found, there = scheme.spans(predictions), scheme.spans(references)
    right = len(found & there)
    return {
        "f1": _share(2 * right, len(found) + len(there)),
        "precision": _share(right, len(found)),
        "recall": _share(right, len(there)),
        **words,
    }


def metrics_of_labels(names: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Names of the metrics of a task with these labels, and of its main one."""
    return SPAN_METRICS if OUTSIDE in names else WORD_METRICS


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def predicted_labels(logits: Ragged, labels: Ragged) -> tuple[Ragged, Ragged]:
    """Predicted and true labels of the words of each row, from logits (T, C) and labels of tokens, IGNORED for those
    that no word begins with."""
    read: NDArray[Any] = labels.values != IGNORED
    starts = np.concatenate([[0], np.cumsum(read)])[labels.starts]
    return Ragged(logits.values[read].argmax(1), starts), Ragged(labels.values[read], starts)
