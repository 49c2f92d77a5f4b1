"""What a model says of a split, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cofi.data.batches import collate
from cofi.data.metrics import compute_metrics, main_score
from cofi.data.spans import label_metrics, predicted_labels
from cofi.data.split import Ragged, TokenizedSplit
from cofi.data.squad_postprocess import best_answers
from cofi.data.task import Task
from cofi.errors import UserError
from cofi.masks import Masks
from cofi.models import CompactModel

Array = NDArray[Any]
Item = TypeVar("Item")


class Team(Protocol):
    """Processes that predict one split together, each on its share of the batches."""

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """The part that this process does."""

    def gather(self, items: list[Item]) -> list[Item]:
        """All items in order, in every process, from what each made of its share."""


@dataclass(frozen=True)
class Predictions:
    """logits: (N, C) float32 in the order of the split, of token classification a row (S, C) a sequence. Instead of
    them, of an embedding head sentence_embedding (N, E) float32, of question answering start_logits and end_logits, one
    float32 row a window, of its length."""

    logits: Array | Ragged | None = None
    sentence_embedding: Array | None = None
    start_logits: Ragged | None = None
    end_logits: Ragged | None = None

    @property
    def finite(self) -> bool:
        rows = (self.logits, self.sentence_embedding, self.start_logits, self.end_logits)
        values = [row.values if isinstance(row, Ragged) else row for row in rows if row is not None]
        return all(bool(np.isfinite(array).all()) for array in values)

    def in_order(self, order: list[int] | None) -> Predictions:
        """The same with the classes of the logits in another order, for each the output it is at; None: as they are."""
        if order is None or self.logits is None:
            return self
        if isinstance(self.logits, Ragged):
            return replace(self, logits=Ragged(self.logits.values[:, order], self.logits.starts))
        return replace(self, logits=self.logits[:, order])


@dataclass(frozen=True)
class Evaluation:
    """metrics: as `compute_metrics` names and scales them. score: the task's main metric on a scale to 100.
    finite: whether all outputs were numbers; classes and answers can be read off NaN as well, and mean nothing.
    main_metric: where it is not the task's."""

    metrics: dict[str, float]
    score: float
    finite: bool = True
    main_metric: str | None = None


def check_length(model: CompactModel, max_length: int | None) -> None:
    """Raise UserError where a length that was asked for is beyond the positions of the model."""
    room = model.config.longest
    if max_length is not None and max_length > room:
        raise UserError(f"--max-length must be at most {room}, the positions that the model has, got {max_length}")


def check_fit(model: CompactModel, split: TokenizedSplit) -> None:
    """Raise UserError where the split's tokens are beyond the model's tables."""
    config = model.config
    room, longest = config.longest, int(split.lengths.max())
    if longest > room:
        raise UserError(f"the model has {room} positions, a sequence has {longest} tokens: lower --max-length")
    token = int(split.input_ids.values.max())
    if token >= config.vocab_size:
        raise UserError(
            f"the model knows {config.vocab_size} tokens, the tokenizer made token {token}: it is another model's"
        )


def predict(
    model: CompactModel,
    split: TokenizedSplit,
    *,
    batch_size: int = 64,
    masks: Masks | None = None,
    device: torch.device | str | None = None,
    progress: Callable[[int], None] | None = None,
    team: Team | None = None,
) -> Predictions:
    """Run the model, in inference mode, over a split. Its training mode is put back afterwards.

    Sequences of similar length go together. device: where the model is, by default. progress(n) is called with the
    number of sequences done. team: processes that share the work, all of them calling this with the same model.
    Raises UserError where the split does not fit the model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    check_fit(model, split)
    device = model.device if device is None else device
    order = np.argsort(-split.lengths, kind="stable")
    starts: Sequence[int] = range(0, len(order), batch_size)
    was_training = model.training
    model.eval()
    outputs: list[dict[str, torch.Tensor]] = []
    try:
        with torch.no_grad():
            for first in starts if team is None else team.share(starts):
                rows = order[first : first + batch_size].tolist()
                output = model(batch=collate(split, rows, device).packed, masks=masks)
                outputs.append({name: output[name] for name in model.head.outputs})
                if progress is not None:
                    progress(first + len(rows))
    finally:
        model.train(was_training)
    if team is not None:
        outputs = team.gather([{name: values.cpu() for name, values in output.items()} for output in outputs])
    return _in_order(outputs, model.head.of_tokens, order, split.lengths)


def _in_order(
    outputs: list[dict[str, torch.Tensor]],
    of_tokens: bool,
    order: NDArray[np.int64],
    lengths: NDArray[np.int64],
) -> Predictions:
    """Outputs of sorted batches as arrays in the split's order; the device is read once."""
    flat = {name: torch.cat([output[name] for output in outputs]).float().cpu().numpy() for name in outputs[0]}
    back = np.argsort(order)
    starts = np.concatenate([[0], np.cumsum(lengths[order])])

    def rows_of(values: Array) -> Any:
        if not of_tokens:
            return values[back]
        return Ragged(Ragged(values, starts).take(back), np.concatenate([[0], np.cumsum(lengths)]))

    return Predictions(**{name: rows_of(values) for name, values in flat.items()})


_SAID: dict[str, Callable[[Array], Array]] = {  # what logits (N, C) say, by the kind of task
    "classification": lambda logits: logits.argmax(1),
    "multi_label": lambda logits: (logits > 0).astype(np.float32),  # a chance above one half
    "regression": lambda logits: logits[:, 0],
}


def score(task: Task, split: TokenizedSplit, predictions: Predictions) -> Evaluation:
    """How good predictions are for the split they were made for."""
    if split.passages is not None:
        assert predictions.start_logits is not None and predictions.end_logits is not None
        answers = best_answers(split.passages, predictions.start_logits, predictions.end_logits)
        metrics = compute_metrics(task, answers, split.passages.answers)
    elif split.token_labels is not None:
        assert isinstance(predictions.logits, Ragged) and task.label_names is not None
        metrics = label_metrics(task.label_names, *predicted_labels(predictions.logits, split.token_labels))
    elif task.kind == "embedding":
        assert predictions.sentence_embedding is not None and split.labels is not None
        metrics = compute_metrics(task, predictions.sentence_embedding, split.labels)
    else:
        assert isinstance(predictions.logits, np.ndarray) and split.labels is not None
        metrics = compute_metrics(task, _SAID[task.kind](predictions.logits), split.labels)
    return Evaluation(metrics, main_score(task, metrics), predictions.finite)


def evaluate_model(
    model: CompactModel,
    split: TokenizedSplit,
    task: Task,
    *,
    batch_size: int = 64,
    masks: Masks | None = None,
    device: torch.device | str | None = None,
    team: Team | None = None,
) -> Evaluation:
    """How good a model is on a split. Arguments as for `predict`."""
    return score(task, split, predict(model, split, batch_size=batch_size, masks=masks, device=device, team=team))
