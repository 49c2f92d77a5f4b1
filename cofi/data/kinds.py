"""Kinds of tasks: what their rows say, the head that learns it and how it is scored."""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"  # of a task whose labels have not been looked at yet


@dataclass(frozen=True)
class Kind:
    """What tasks of a kind have in common.

    head:        of the model, in the words of CompactConfig.head
    metrics:     names that `compute_metrics` reports, "combined" the mean of those before it; none where the names of
                 the classes decide, see `metrics_of_labels`. main_metric: of them, ranks models
    has_labels:  whether a row has classes or numbers
    has_classes: whether labels are named classes, each with an output of the head
    n_outputs:   of the head's last layer, where they are not classes
    is_asked:    whether --task-kind may name it, or the columns of a table alone
    is_percent:  whether its metrics are 0 to 100, not fractions
    """

    head: str
    metrics: tuple[str, ...] = ()
    main_metric: str = ""
    has_labels: bool = True
    has_classes: bool = False
    n_outputs: int = 0
    is_asked: bool = True
    is_percent: bool = False


KINDS: dict[str, Kind] = {
    # one class a row
    "classification": Kind("classification", ("accuracy", "f1_macro"), "accuracy", has_classes=True),
    # any number of classes a row
    "multi_label": Kind("classification", ("f1_micro", "f1_macro", "subset_accuracy"), "f1_micro", has_classes=True),
    # a number
    "regression": Kind("classification", ("pearson", "spearmanr", "combined", "mse"), "combined", n_outputs=1),
    # a class for each word
    "token_classification": Kind("token_classification", has_classes=True),
    # the span of a passage that answers a question: outputs for its start and its end
    "question_answering": Kind(
        "question_answering",
        ("exact_match", "f1"),
        "f1",
        has_labels=False,
        n_outputs=2,
        is_asked=False,
        is_percent=True,
    ),
    # texts alone: the embedding is compared with what the unpruned model makes
    "embedding": Kind(
        "embedding", ("spearmanr", "cosine", "recall_at_10", "recall_10_at_100"), "spearmanr", has_labels=False
    ),
}
ASKED_KINDS = tuple(name for name, kind in KINDS.items() if kind.is_asked)
