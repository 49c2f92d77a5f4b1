"""What a task is: which columns hold text and label, what the label means, how a prediction is scored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cofi.data.kinds import AUTO, KINDS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hugging Face hub and the names of its splits."""

    path: str
    config: str | None = None
    train: str = "train"
    validation: str = "validation"


@dataclass(frozen=True)
class TaskDefaults:
    """max_length: tokens a sequence is cut to."""

    max_length: int = 128


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
        return KINDS[self.kind].head

    @property
    def has_labels(self) -> bool:
        """Whether a row has classes or numbers."""
        return KINDS[self.kind].has_labels

    @property
    def has_classes(self) -> bool:
        """Whether labels are known to be named classes."""
        return self.kind != AUTO and KINDS[self.kind].has_classes

    @property
    def second_column(self) -> str | None:
        """Of the text that a row has beside its first."""
        return None if self.kind == "embedding" else self.pair_column

    @property
    def num_labels(self) -> int:
        """Outputs of the head's last layer: classes, 1 for regression, 2 (start and end) for question answering."""
        if not self.has_classes:
            return KINDS[self.kind].n_outputs
        if self.label_names is None:
            raise ValueError(f"the classes of task {self.name} are known after load_splits")
        return len(self.label_names)
