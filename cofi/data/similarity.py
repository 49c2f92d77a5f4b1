"""Embeddings on a task of pairs with a number for how alike the two texts are (STS-B): their cosines against it.

As usual for encoders of sentences, nothing is trained on the task: Spearman's correlation is what counts.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cofi.data.metrics import METRICS
from cofi.data.predict import Evaluation, Predictions
from cofi.data.table import Table
from cofi.data.task import Task
from cofi.data.text import with_kind

_METRICS = ("spearmanr", "pearson")  # the first one counts


def is_similarity(task: Task) -> bool:
    """Whether the rows of a task are pairs with a number."""
    return task.kind == "regression" and task.pair_column is not None


def sides(task: Task) -> tuple[Task, Task]:
    """The two texts of the pairs, each as texts to be embedded."""
    alone = with_kind(replace(task, pair_column=None), "embedding")
    return alone, replace(alone, text_column=task.pair_column)


def score_similarity(task: Task, first: Predictions, second: Predictions, table: Table) -> Evaluation:
    """How well the cosines of the two sides' embeddings follow the labels of the pairs in `table`."""
    assert first.sentence_embedding is not None and second.sentence_embedding is not None
    cosines = np.sum(first.sentence_embedding * second.sentence_embedding, axis=1)
    labels = np.asarray(table[task.label_column], dtype=np.float64)
    metrics = {name: METRICS[name](cosines, labels) for name in _METRICS}
    return Evaluation(metrics, 100.0 * metrics[_METRICS[0]], main_metric=_METRICS[0])
