"""What a task is: which columns hold text and label, what the label means, how a prediction is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

KINDS = ("classification", "multi_label", "regression", "token_classification", "question_answering", "embedding")
CLASS_KINDS = ("classification", "multi_label", "token_classification")  # one of a row, any number, one of a word
ASKED_KINDS = tuple(kind for kind in KINDS if kind != "question_answering")  # by --task-kind; that by its columns
_OWN_HEADS = ("token_classification", "question_answering", "embedding")
AUTO = "auto"  # kind of a task whose labels have not been looked at yet


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face hub and the names of its splits."""

    path: str
    config: str | None = None
    train: str = "train"
    validation: str = "validation"


@dataclass(frozen=True)
class TaskDefaults:
    """max_length: tokens a sequence is cut to; doc_stride: tokens that two windows of one passage share."""

    max_length: int = 128
    doc_stride: int = 128


@dataclass(frozen=True)
class Task:
    """A task. One whose kind is "auto" is completed from its data by `load_splits`.

    text_column, pair_column: for question answering the question and the passage; for embeddings two columns of texts,
        each of which is a row; for token classification the list of words. None: found by name.
    label_column: class (integer or name), list of classes, number, list of the words' classes, or for question
        answering the struct of answers.
    label_names: names of the classes in the order of their integers; None: taken from the training labels.
    metrics: names that `compute_metrics` reports; "combined" is the mean of those before it. main_metric ranks models.
    hub: where the data come from when no directory or file is given.
    extra_validation: (suffix of its metrics, split name) of further validation sets, used where they are present.
    generate: makes {"train", "validation"} on this machine, for a task whose data no one has to fetch.
    """

    name: str
    kind: str
    text_column: str | None = None
    pair_column: str | None = None
    label_column: str = "label"
    label_names: tuple[str, ...] | None = None
    metrics: tuple[str, ...] = ()
    main_metric: str = ""
    hub: HubSource | None = None
    defaults: TaskDefaults = field(default_factory=TaskDefaults)
    extra_validation: tuple[tuple[str, str], ...] = ()
    generate: Callable[[], dict[str, pa.Table]] | None = None

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, AUTO):
            raise ValueError(f"kind must be one of {', '.join((*KINDS, AUTO))}, got {self.kind!r}")
        if self.kind != AUTO and self.main_metric not in self.metrics:
            raise ValueError(f"main_metric must be one of {', '.join(self.metrics)}, got {self.main_metric!r}")

    @property
    def head(self) -> str:
        """The head a model needs, in the words of CompactConfig.head."""
        return self.kind if self.kind in _OWN_HEADS else "classification"

    @property
    def has_labels(self) -> bool:
        """Whether a row has classes or numbers. An embedding is compared with what the unpruned model makes."""
        return self.kind not in ("question_answering", "embedding")

    @property
    def second_column(self) -> str | None:
        """Of the text that a row has beside its first."""
        return None if self.kind == "embedding" else self.pair_column

    @property
    def num_labels(self) -> int:
        """Outputs of the head's last layer: classes, 1 for regression, 2 (start and end) for question answering."""
        if self.kind in CLASS_KINDS:
            if self.label_names is None:
                raise ValueError(f"the classes of task {self.name} are known after load_splits")
            return len(self.label_names)
        return {"regression": 1, "question_answering": 2, "embedding": 0}[self.kind]
