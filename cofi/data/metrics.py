"""Scores as GLUE and SQuAD define them: fractions for GLUE, 0 to 100 for SQuAD, as their own scripts report them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cofi.data.kinds import KINDS
from cofi.data.task import Task

Array = NDArray[Any]


def accuracy(predictions: Array, references: Array) -> float:
    return float(np.mean(predictions == references))


def f1(predictions: Array, references: Array) -> float:
    """F1 of class 1; 0 where it is neither predicted nor there."""
    return _f1_of(1, predictions, references)


def f1_macro(predictions: Array, references: Array) -> float:
    """Mean of the F1 of every class that is predicted or there; of several labels a row, (N, C), of all C classes."""
    if references.ndim == 2:
        return float(np.mean([f1(p, r) for p, r in zip(predictions.T, references.T, strict=True)]))
    return float(np.mean([_f1_of(label, predictions, references) for label in np.union1d(predictions, references)]))


def f1_micro(predictions: Array, references: Array) -> float:
    """F1 of all labels of all rows together, (N, C) of 0 and 1."""
    return f1(predictions.ravel(), references.ravel())


def subset_accuracy(predictions: Array, references: Array) -> float:
    """Share of the rows (N, C) all of whose labels are right."""
    return float(np.mean((predictions == references).all(1)))


def _f1_of(label: int, predictions: Array, references: Array) -> float:
    both = np.sum((predictions == label) & (references == label))
    total = np.sum(predictions == label) + np.sum(references == label)
    return float(2 * both / total) if total else 0.0


def matthews_correlation(predictions: Array, references: Array) -> float:
    """Correlation of the class indicators (Gorodkin 2004 for more than two classes); 0 where either is constant."""
    labels = np.union1d(predictions, references)
    p = (predictions[:, None] == labels).astype(np.float64)
    r = (references[:, None] == labels).astype(np.float64)
    p, r = p - p.mean(0), r - r.mean(0)
    scale = np.sqrt(np.sum(p * p) * np.sum(r * r))
    return float(np.sum(p * r) / scale) if scale else 0.0


def pearson(predictions: Array, references: Array) -> float:
    """0 where either is constant: the correlation has no value there, and a model of that kind has learned nothing."""
    p, r = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    if np.ptp(p) == 0 or np.ptp(r) == 0:
        return 0.0
    p, r = p - p.mean(), r - r.mean()
    return float(np.clip(np.sum(p * r) / np.sqrt(np.sum(p * p) * np.sum(r * r)), -1.0, 1.0))


def spearmanr(predictions: Array, references: Array) -> float:
    return pearson(_ranks(predictions), _ranks(references))


def _ranks(values: Array) -> Array:
    """Mean rank of equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def mse(predictions: Array, references: Array) -> float:
    return float(np.mean((np.asarray(predictions, np.float64) - references) ** 2))


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_macro": f1_macro,
    "f1_micro": f1_micro,
    "subset_accuracy": subset_accuracy,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
    "mse": mse,
}
NEIGHBOURS = 10
CANDIDATES = 100  # that somebody fetches by the small model, to sort them by the whole one
MAX_COMPARED = 2048  # rows that are compared with each other: their similarities take 17 MB


def compute_metrics(
    task: Task, predictions: Sequence[Any] | Array, references: Sequence[Any] | Array
) -> dict[str, float]:
    """The task's metrics. "combined" is the mean of those before it.

    predictions, references: (N,) classes or numbers; (N, C) of 0 and 1 for several labels; (N, E) embeddings; for
    question answering N texts, and N lists of accepted texts. Those of words are `label_metrics`.
    Raises ValueError where their lengths differ or are 0.
    """
    if len(predictions) != len(references) or not len(references):
        raise ValueError(
            f"predictions and references must be as many, at least 1: {len(predictions)}, {len(references)}"
        )
    if task.kind == "question_answering":
        return squad_metrics(list(predictions), list(references))
    if task.kind == "embedding":
        return embedding_metrics(np.asarray(predictions), np.asarray(references))
    found: dict[str, float] = {}
    for name in task.metrics:
        if name == "combined":
            found[name] = float(np.mean(list(found.values())))
        else:
            found[name] = METRICS[name](np.asarray(predictions), np.asarray(references))
    return found


def embedding_metrics(predictions: Array, references: Array) -> dict[str, float]:
    """How much alike two sets of embeddings (N, E) are, of unit length, all fractions.

    spearmanr: of the cosines of all pairs of rows, in the one set and in the other: whether what is nearer stays nearer
    cosine: of each row with its reference, the mean: whether the one can stand for the other
    recall_at_10: share of each row's ten nearest others that are the same in both
    recall_10_at_100: share of its ten nearest by the references that are among its hundred nearest by the predictions
    Rows are compared with each other up to MAX_COMPARED, evenly spaced.
    """
    some = np.unique(np.linspace(0, len(references) - 1, min(len(references), MAX_COMPARED)).astype(np.int64))
    ours, theirs = (rows[some] @ rows[some].T for rows in (predictions, references))
    pairs = np.triu_indices(len(some), 1)
    wanted = _nearest(theirs, NEIGHBOURS)
    return {
        "spearmanr": spearmanr(ours[pairs], theirs[pairs]) if len(pairs[0]) else 0.0,
        "cosine": float(np.mean(np.sum(predictions * references, axis=1))),
        "recall_at_10": _recall(_nearest(ours, NEIGHBOURS), wanted),
        "recall_10_at_100": _recall(_nearest(ours, CANDIDATES), wanted),
    }


def _recall(fetched: Array, wanted: Array) -> float:
    """Share of what is wanted in each row (N, K) that is among what is fetched there; 0 where nothing is."""
    if not wanted.size:
        return 0.0
    shared = [len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(fetched, wanted, strict=True)]
    return float(np.mean(shared)) / wanted.shape[1]


def _nearest(table: Array, count: int) -> Array:
    """The nearest others of each row of a table of similarities (N, N), in any order, all of them at most."""
    count = min(count, len(table) - 1)
    alone = table.astype(np.float64)
    np.fill_diagonal(alone, -np.inf)
    return np.argpartition(-alone, count - 1, axis=1)[:, :count]


def main_score(task: Task, metrics: dict[str, float]) -> float:
    """The task's main metric on a scale to 100."""
    return metrics[task.main_metric] * (1.0 if KINDS[task.kind].is_percent else 100.0)


_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and English articles, white space single: SQuAD's rule of equality."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, accepted: Sequence[str]) -> float:
    return float(any(normalize_answer(prediction) == normalize_answer(text) for text in accepted))


def token_f1(prediction: str, accepted: Sequence[str]) -> float:
    """Largest F1 over the bags of words of the prediction and one accepted answer."""
    return max(_overlap(normalize_answer(prediction).split(), normalize_answer(text).split()) for text in accepted)


def _overlap(prediction: list[str], answer: list[str]) -> float:
    shared = sum((Counter(prediction) & Counter(answer)).values())
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def squad_metrics(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """{"exact_match", "f1"}, means over the examples, 0 to 100."""
    pairs = list(zip(predictions, references, strict=True))
    return {
        "exact_match": 100.0 * float(np.mean([exact_match(text, accepted) for text, accepted in pairs])),
        "f1": 100.0 * float(np.mean([token_f1(text, accepted) for text, accepted in pairs])),
    }
