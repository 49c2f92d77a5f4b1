"""Spans of labels, against a reading word by word, and the scores made of them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cofi.data.spans import SPAN_METRICS, WORD_METRICS, _Scheme, label_metrics, metrics_of_labels, predicted_labels
from cofi.data.split import Ragged

BIO = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
BIOES = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BIES"))
BMES = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BMES"))
BILOU = ("O", *(f"{prefix}-{kind}" for kind in ("PER", "LOC") for prefix in "BILU"))


def ragged(names: tuple[str, ...], *rows: str) -> Ragged:
    return Ragged.of([[names.index(label) for label in row.split()] for row in rows], np.int64)


def read_slowly(names: tuple[str, ...], labels: Ragged) -> set[tuple[int, int, str]]:
    """One word after the other, as one reads them."""
    found, first = set(), 0
    for row in labels:
        begin, kind = None, ""
        for i, label in enumerate([*(names[number] for number in row), "O"]):
            prefix, _, here = label.partition("-")
            goes_on = begin is not None and here == kind and prefix in "IMEL" and label != "O"
            if begin is not None and not goes_on:
                found.add((first + begin, first + i, kind))
                begin = None
            if label != "O" and begin is None:
                begin, kind = i, here
            if begin is not None and prefix in "ELSU":
                found.add((first + begin, first + i + 1, kind))
                begin = None
        first += len(row)
    return found


@pytest.mark.parametrize("names", [BIO, BIOES, BMES, BILOU], ids=["BIO", "BIOES", "BMES", "BILOU"])
def test_spans_are_those_of_a_reading_word_by_word(names: tuple[str, ...]) -> None:
    draw = random.Random(0)
    for _ in range(200):
        rows = [draw.choices(range(len(names)), k=draw.choice([0, 0, 1, 2, 5, 9])) for _ in range(draw.randint(1, 4))]
        labels = Ragged.of(rows, np.int64)
        scheme = _Scheme.of(names)
        kinds = sorted({name[2:] for name in names})  # that of O, the empty one, is first
        spans = {(begin, end, kinds[kind]) for begin, end, kind in scheme.spans(labels)}
        assert spans == read_slowly(names, labels), rows


def test_scores_of_spans_as_the_conll_script_gives_them() -> None:
    there = ragged(BIO, "B-PER I-PER O B-LOC", "O B-LOC B-LOC O", "")
    found = ragged(BIO, "B-PER I-PER O B-PER", "O I-LOC I-LOC O", "")  # one whole, one of another type, two as one
    metrics = label_metrics(BIO, found, there)
    assert metrics == pytest.approx({"precision": 1 / 3, "recall": 1 / 4, "f1": 2 / 7, "accuracy": 5 / 8})
    assert list(metrics) == ["f1", "precision", "recall", "accuracy"] and metrics_of_labels(BIO) == SPAN_METRICS
    assert label_metrics(BIO, there, there)["f1"] == 1.0
    nothing = ragged(BIO, "O O O O", "O O O O", "")
    assert label_metrics(BIO, nothing, there)["f1"] == label_metrics(BIO, nothing, nothing)["f1"] == 0.0


def test_labels_without_prefixes_are_spans_of_one_word() -> None:
    names = ("COMMA", "O", "PERIOD", "S-CURVE")
    there, found = ragged(names, "COMMA COMMA O PERIOD"), ragged(names, "COMMA O S-CURVE PERIOD")
    metrics = label_metrics(names, found, there)
    assert metrics == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "accuracy": 0.5})


def test_one_label_without_a_prefix_changes_nothing_for_others() -> None:
    names = ("O", "B-X", "I-X", "[CLS]")
    there, found = ragged(names, "B-X I-X O O"), ragged(names, "B-X I-X O [CLS]")
    assert label_metrics(names, found, there)["precision"] == 0.5


def test_without_an_outside_every_word_counts_the_same() -> None:
    names = ("ADJ", "NOUN", "VERB")
    metrics = label_metrics(names, ragged(names, "ADJ NOUN", "VERB"), ragged(names, "ADJ NOUN", "NOUN"))
    assert metrics == pytest.approx({"accuracy": 2 / 3, "f1_macro": (1 + 2 / 3 + 0) / 3})
    assert metrics_of_labels(names) == WORD_METRICS


def test_only_words_are_read() -> None:
    labels = Ragged.of([[-100, 1, -100, 0], [-100, -100], [2, -100]], np.int64)
    logits = Ragged(np.eye(3)[[2, 1, 2, 1, 2, 2, 0, 2]], labels.starts)
    predicted, true = predicted_labels(logits, labels)
    assert [row.tolist() for row in predicted] == [[1, 1], [], [0]]
    assert [row.tolist() for row in true] == [[1, 0], [], [2]]
