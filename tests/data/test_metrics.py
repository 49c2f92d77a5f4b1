"""Scores against numbers worked out by hand and against scikit-learn and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from cofi.data import TASKS, compute_metrics, main_score
from cofi.data.metrics import (
    METRICS,
    embedding_metrics,
    exact_match,
    f1,
    f1_macro,
    f1_micro,
    normalize_answer,
    squad_metrics,
    subset_accuracy,
    token_f1,
)

P = np.array([1, 1, 0, 1, 0, 0, 1, 0])
R = np.array([1, 0, 0, 1, 1, 0, 1, 0])  # 3 true positives, 1 false positive, 1 false negative, 3 true negatives


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("accuracy", 6 / 8),
        ("f1", 2 * 3 / (4 + 4)),
        ("f1_macro", 0.75),
        ("matthews_correlation", (3 * 3 - 1 * 1) / np.sqrt(4 * 4 * 4 * 4)),
        ("mse", 2 / 8),
    ],
)
def test_by_hand(metric: str, value: float) -> None:
    assert METRICS[metric](P, R) == pytest.approx(value)


def test_spearman_by_hand() -> None:
    # ranks 1 2 3 4 and 1 2.5 2.5 4
    assert METRICS["spearmanr"](np.array([0.1, 0.2, 0.9, 5.0]), np.array([1.0, 2.0, 2.0, 3.0])) == pytest.approx(
        4.5 / np.sqrt(5 * 4.5)
    )


@pytest.mark.parametrize("n_classes", [2, 3, 7])
def test_classes_against_sklearn(n_classes: int) -> None:
    random = np.random.default_rng(n_classes)
    p, r = random.integers(0, n_classes, (2, 200))
    assert METRICS["accuracy"](p, r) == pytest.approx(sklearn.metrics.accuracy_score(r, p))
    assert METRICS["f1_macro"](p, r) == pytest.approx(sklearn.metrics.f1_score(r, p, average="macro"))
    assert METRICS["matthews_correlation"](p, r) == pytest.approx(sklearn.metrics.matthews_corrcoef(r, p))
    assert METRICS["f1"](p == 1, r == 1) == pytest.approx(sklearn.metrics.f1_score(r == 1, p == 1))


def test_numbers_against_scipy() -> None:
    random = np.random.default_rng(0)
    references = random.integers(0, 26, 300) / 5  # many equal ones, as in STS-B
    predictions = (references + random.normal(0, 1, 300)).astype(np.float32)
    assert METRICS["pearson"](predictions, references) == pytest.approx(
        scipy.stats.pearsonr(predictions, references).statistic
    )
    assert METRICS["spearmanr"](predictions, references) == pytest.approx(
        scipy.stats.spearmanr(predictions, references).statistic
    )


def test_what_has_no_value_is_zero() -> None:
    constant, varied = np.zeros(4), np.array([0.0, 1.0, 0.0, 1.0])
    for metric in ("pearson", "spearmanr", "matthews_correlation"):
        assert METRICS[metric](constant, varied) == 0.0
        assert METRICS[metric](varied, constant) == 0.0
    assert f1(constant, constant) == 0.0


@pytest.mark.parametrize("task", ["mrpc", "qqp"])
def test_accuracy_and_f1_are_combined(task: str) -> None:
    metrics = compute_metrics(TASKS[task], [1, 1, 1, 1], [1, 0, 0, 1])
    assert metrics == {"accuracy": 0.5, "f1": pytest.approx(2 / 3), "combined": pytest.approx((0.5 + 2 / 3) / 2)}
    assert main_score(TASKS[task], metrics) == 50.0


def test_stsb_main_score_is_the_mean_of_both_correlations() -> None:
    metrics = compute_metrics(TASKS["stsb"], [1.0, 2.0, 9.0, 10.0], [1.0, 2.0, 3.0, 4.0])
    assert set(metrics) == {"pearson", "spearmanr", "combined"}
    assert metrics["spearmanr"] == pytest.approx(1.0)
    assert main_score(TASKS["stsb"], metrics) == pytest.approx(50 * (metrics["pearson"] + 1))


def test_cola_is_scored_by_matthews() -> None:
    assert main_score(TASKS["cola"], compute_metrics(TASKS["cola"], P, R)) == pytest.approx(50.0)


@pytest.mark.parametrize(("p", "r"), [([1], [1, 0]), ([], [])])
def test_lengths_must_agree(p: list[int], r: list[int]) -> None:
    with pytest.raises(ValueError, match="predictions and references"):
        compute_metrics(TASKS["sst2"], p, r)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat's\tmat!", "cats mat"),
        ("An apple, a day", "apple day"),
        ("theatre analysis", "theatre analysis"),
        ("Los-Angeles", "losangeles"),
        ("the", ""),
        ("«the» 5%", "« » 5"),
    ],
)
def test_answer_normalization(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_answers_by_hand() -> None:
    assert exact_match("the Denver Broncos.", ["Broncos", "Denver Broncos"]) == 1.0
    assert exact_match("Denver", ["Denver Broncos"]) == 0.0
    assert token_f1("the big big cat", ["big cat sat"]) == pytest.approx(2 * 2 / (3 + 3))  # "big" counts once
    assert token_f1("cat", ["dog", "cat sat"]) == pytest.approx(2 / 3)
    assert token_f1("the", ["cat"]) == 0.0


def test_squad_scores_are_percentages() -> None:
    metrics = compute_metrics(TASKS["squad"], ["a cat", "blue sky", ""], [["cat"], ["sky", "grey"], ["x"]])
    assert metrics == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * (1 + 2 / 3) / 3)}
    assert main_score(TASKS["squad"], metrics) == metrics["f1"]
    assert metrics == squad_metrics(["a cat", "blue sky", ""], [["cat"], ["sky", "grey"], ["x"]])


def test_several_labels_are_scored_as_scikit_learn_does():
    draw = np.random.default_rng(0)
    references = (draw.random((50, 4)) < (0.5, 0.2, 0.05, 0.0)).astype(np.float32)  # one class that no row has
    predictions = np.where(draw.random((50, 4)) < 0.2, 1 - references, references).astype(np.float32)
    predictions[:, 3] = 0
    for averaged, ours in (("micro", f1_micro), ("macro", f1_macro)):
        want = sklearn.metrics.f1_score(references, predictions, average=averaged, zero_division=0)
        assert ours(predictions, references) == pytest.approx(want)
    assert subset_accuracy(predictions, references) == sklearn.metrics.accuracy_score(references, predictions)
    assert f1_micro(0 * predictions, 0 * references) == f1_macro(0 * predictions, 0 * references) == 0


def unit_rows(count: int, dims: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dims))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_embeddings_are_as_alike_as_their_cosines_and_neighbours_say():
    theirs = unit_rows(200, 8, seed=0)
    ours = theirs + 0.6 * unit_rows(200, 8, seed=1)
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    found = embedding_metrics(ours, theirs)
    pairs = [(a @ b, c @ d) for (a, c), (b, d) in itertools.combinations(zip(ours, theirs, strict=True), 2)]
    assert found["spearmanr"] == pytest.approx(scipy.stats.spearmanr(*zip(*pairs, strict=True)).statistic)
    assert found["cosine"] == pytest.approx(np.mean([a @ b for a, b in zip(ours, theirs, strict=True)]))

    def nearest(rows, i, count):
        return set(sorted((j for j in range(200) if j != i), key=lambda j: -rows[i] @ rows[j])[:count])

    for name, count in (("recall_at_10", 10), ("recall_10_at_100", 100)):
        shared = [len(nearest(ours, i, count) & nearest(theirs, i, 10)) / 10 for i in range(200)]
        assert found[name] == pytest.approx(np.mean(shared))
        assert 0.3 < found[name] < 0.995


def test_embeddings_that_are_the_same_or_turned_keep_everything():
    theirs = unit_rows(30, 5, seed=0)
    kept = {"spearmanr": 1, "recall_at_10": 1, "recall_10_at_100": 1}
    assert embedding_metrics(theirs, theirs) == pytest.approx({**kept, "cosine": 1})
    turned = embedding_metrics(-theirs, theirs)  # cosines between rows stay, those with the references do not
    assert turned == pytest.approx({**kept, "cosine": -1})


@pytest.mark.parametrize(("rows", "recall"), [(1, 0.0), (2, 1.0), (3, 1.0)])
def test_few_embeddings(rows, recall):
    theirs = unit_rows(rows, 4, seed=0)
    found = embedding_metrics(theirs, theirs)
    assert found["recall_at_10"] == found["recall_10_at_100"] == recall and found["cosine"] == pytest.approx(1.0)
    assert embedding_metrics(np.full((rows, 4), 0.5), theirs)["spearmanr"] == 0.0  # a model that says one thing


def test_of_many_embeddings_evenly_spaced_ones_are_compared(monkeypatch):
    theirs, ours = unit_rows(100, 4, seed=0), unit_rows(100, 4, seed=1)
    monkeypatch.setattr("cofi.data.metrics.MAX_COMPARED", 10)
    some = np.linspace(0, 99, 10).astype(int)
    found, alone = embedding_metrics(ours, theirs), embedding_metrics(ours[some], theirs[some])
    assert found["spearmanr"] == alone["spearmanr"] and found["recall_at_10"] == alone["recall_at_10"]
    assert found["cosine"] == pytest.approx(float(np.mean(np.sum(ours * theirs, axis=1))))
