"""Batches: every row once an epoch, the same for the same seed, packed without padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cofi.data import BatchPlan, TokenizedSplit, collate
from cofi.data.features import Ragged

LENGTHS = np.random.default_rng(0).integers(5, 100, 1003)


@pytest.mark.parametrize("grouped", [False, True], ids=["plain", "grouped"])
@pytest.mark.parametrize("batch_size", [1, 32, 1003, 5000])
def test_every_row_once(batch_size: int, grouped: bool) -> None:
    plan = BatchPlan(LENGTHS, batch_size, seed=3, epoch=1, group_by_length=grouped)
    batches = list(plan)
    assert len(batches) == len(plan) == -(-1003 // batch_size)
    assert sorted(row for batch in batches for row in batch) == list(range(1003))
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert len(batches[-1]) == (1003 - 1) % batch_size + 1


@pytest.mark.parametrize("grouped", [False, True], ids=["plain", "grouped"])
def test_same_seed_same_batches_at_any_index(grouped: bool) -> None:
    def plan(seed: int, epoch: int) -> BatchPlan:
        return BatchPlan(LENGTHS, 32, seed=seed, epoch=epoch, group_by_length=grouped)

    assert plan(3, 1).batch(17) == list(plan(3, 1))[17]
    assert list(plan(3, 1)) != list(plan(3, 2)) != list(plan(4, 2))
    assert list(plan(1, 2)) != list(plan(2, 1))


def test_order_is_fixed_for_ever() -> None:
    """A run that is continued on another machine must see the same batches."""
    assert list(BatchPlan([1] * 10, 4, seed=57, epoch=0)) == [[3, 7, 6, 2], [9, 0, 8, 4], [1, 5]]


def test_grouping_brings_similar_lengths_together() -> None:
    def spread(grouped: bool) -> float:
        plan = BatchPlan(LENGTHS, 32, seed=0, epoch=0, group_by_length=grouped)
        return float(np.mean([np.ptp(LENGTHS[batch]) for batch in plan]))

    assert spread(True) < 0.2 * spread(False)
    means = [LENGTHS[batch].mean() for batch in BatchPlan(LENGTHS, 32, seed=0, epoch=0, group_by_length=True)]
    assert means != sorted(means)


@pytest.mark.parametrize(
    ("lengths", "batch_size", "seed", "message"),
    [
        ([], 2, 0, "at least one row"),
        ([1], 0, 0, "batch_size must be at least 1, got 0"),
        ([1], 1, -1, "negative, got -1"),
    ],
)
def test_wrong_plans(lengths: list[int], batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchPlan(lengths, batch_size, seed=seed, epoch=0)


@pytest.mark.parametrize("index", [-1, 2])
def test_batch_that_is_not_there(index: int) -> None:
    with pytest.raises(IndexError, match=rf"batch must be in \[0, 2\), got {index}"):
        BatchPlan([1, 1, 1], 2, seed=0, epoch=0).batch(index)


IDS = Ragged.of([[2, 7, 3], [2, 3], [2, 8, 9, 9, 3]], np.int32)
TYPES = Ragged.of([[0, 0, 1], [0, 0], [0, 0, 0, 1, 1]], np.int8)


def test_collate_packs(device: str) -> None:
    split = TokenizedSplit(IDS, TYPES, labels=np.array([1, 0, 2]))
    batch = collate(split, [2, 0], device)
    packed = batch.packed
    assert packed.input_ids.tolist() == [2, 8, 9, 9, 3, 2, 7, 3]
    assert packed.token_type_ids.tolist() == [0, 0, 0, 1, 1, 0, 0, 1]
    assert packed.position_ids.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert packed.cu_seqlens.tolist() == [0, 5, 8] and packed.cu_seqlens.dtype == torch.int32
    assert packed.max_seqlen == 5 and batch.rows == (2, 0)
    assert {t.dtype for t in (packed.input_ids, packed.token_type_ids, packed.position_ids)} == {torch.int64}
    assert batch.labels["labels"].tolist() == [2, 1]
    assert {t.device.type for t in (packed.input_ids, packed.cu_seqlens, batch.labels["labels"])} == {device}


def test_collate_labels_by_kind() -> None:
    numbers = collate(TokenizedSplit(IDS, TYPES, labels=np.array([0.5, 1, 2], np.float32)), [1])
    assert numbers.labels["labels"].dtype == torch.float32
    spans = TokenizedSplit(IDS, TYPES, start_positions=np.array([1, 0, 2]), end_positions=np.array([1, 0, 3]))
    labels = collate(spans, [2, 1]).labels
    assert set(labels) == {"start_positions", "end_positions"}
    assert labels["start_positions"].tolist() == [2, 0] and labels["end_positions"].tolist() == [3, 0]
    assert collate(TokenizedSplit(IDS, TYPES), [0]).labels == {}
