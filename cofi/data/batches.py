"""Which rows make a batch, and the batch itself: packed tokens and labels on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cofi.data.split import TokenizedSplit
from cofi.models.heads import IGNORED
from cofi.models.packed import PackedBatch, sent

BUCKET_BATCHES = 50  # batches a bucket of group_by_length: long enough to sort out lengths, short enough to stay random


class BatchPlan:
    """The batches of one epoch, the same for the same arguments, each available by its number.

    lengths: (N,) tokens of each row. Plain: a random permutation cut into batches, so that every batch is a uniform
    sample, as in the paper. group_by_length: the permutation is cut into buckets, rows are sorted by length inside a
    bucket, and the order of batches is random again; less computing where lengths are padded or balanced over
    devices. The last batch holds what remains.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        group_by_length: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if len(lengths) < 1:
            raise ValueError("lengths must hold at least one row, got none")
        if seed < 0 or epoch < 0:
            raise ValueError(f"seed and epoch must not be negative, got {seed} and {epoch}")
        self.batch_size = batch_size
        random = np.random.Generator(np.random.PCG64([seed, epoch]))
        order = random.permutation(len(lengths))
        if group_by_length:
            order = self._grouped(order, np.asarray(lengths), random)
        self._order = order

    def _grouped(
        self, order: NDArray[np.int64], lengths: NDArray[np.int64], random: np.random.Generator
    ) -> NDArray[np.int64]:
        bucket = self.batch_size * BUCKET_BATCHES
        buckets = [order[first : first + bucket] for first in range(0, len(order), bucket)]
        order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in buckets])
        whole = len(order) // self.batch_size * self.batch_size
        batches = order[:whole].reshape(-1, self.batch_size)
        return np.concatenate([random.permutation(batches).ravel(), order[whole:]])

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def batch(self, index: int) -> list[int]:
        """Rows of batch `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"batch must be in [0, {len(self)}), got {index}")
        return self._order[index * self.batch_size : (index + 1) * self.batch_size].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(index) for index in range(len(self)))


@dataclass(frozen=True)
class Share:
    """How much of a step's batch this is, of what is predicted (sentences, or labelled tokens) and of its tokens: what
    a mean over it counts for."""

    predictions: float = 1.0
    tokens: float = 1.0


@dataclass(frozen=True)
class TaskBatch:
    """packed: the tokens. labels: arguments for the model's forward, "labels" (B,) int64 or float32, (B, C) float32 or
    (T,) int64, or "start_positions" and "end_positions" (B,) int64 columns of each sequence. rows: of the split, on the
    host. share: less than everything where several processes work on a batch. of_tokens: whether labels are."""

    packed: PackedBatch
    labels: dict[str, Tensor]
    rows: tuple[int, ...]
    share: Share = Share()
    of_tokens: bool = False

    @property
    def predicted(self) -> Tensor | None:
        """bool (T,): tokens whose prediction counts, where labels are of tokens."""
        return self.labels["labels"] != IGNORED if self.of_tokens else None

    def to(self, device: torch.device | str) -> TaskBatch:
        """The same batch on `device`, see `sent`."""
        labels = {name: sent(values, device) for name, values in self.labels.items()}
        return replace(self, packed=self.packed.to(device), labels=labels)


def collate(split: TokenizedSplit, rows: Sequence[int], device: torch.device | str = "cpu") -> TaskBatch:
    """The given rows of a split as a batch on `device`, without padding."""
    lengths = split.lengths[np.asarray(rows)]
    cu_seqlens = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    packed = PackedBatch(
        input_ids=_int64(split.input_ids.take(rows)),
        token_type_ids=_int64(split.token_type_ids.take(rows)),
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])),
        cu_seqlens=torch.from_numpy(cu_seqlens),
        max_seqlen=int(lengths.max()),
    )
    fields = {
        "labels": split.labels,
        "start_positions": split.start_positions,
        "end_positions": split.end_positions,
    }
    labels = {name: torch.from_numpy(values[np.asarray(rows)]) for name, values in fields.items() if values is not None}
    of_tokens = split.token_labels is not None
    if split.token_labels is not None:
        labels["labels"] = torch.from_numpy(split.token_labels.take(rows))
    return TaskBatch(packed, labels, tuple(rows), of_tokens=of_tokens).to(device)


def _int64(values: NDArray[np.integer]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
