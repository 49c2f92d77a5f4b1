"""Replayed models: what the model itself gives, whatever is to spare in a bucket; captures that need no GPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cofi.models import CompactModel, PackedBatch, from_lists
from cofi.models.replay import ReplayedModel, pack_inputs, unpack_inputs
from cofi_kernels.compact_encoder.graphs import Bucket, CudaCapture
from tests.kernels.captures import Captures

from .tiny import model_of

HEADS = {
    "classification": {"head": "classification"},
    "labels of tokens": {"head": "token_classification", "num_labels": 3},
    "question answering": {"head": "question_answering"},
    "none": {"head": "none"},
    "embedding": {"head": "embedding"},
    "embedding of the first token": {"head": "embedding", "pooling": "first"},
    "roberta's positions": {"head": "classification", "position_offset": 2},
}
# lengths of sequences: alone, even, with spare tokens, one that fills its bucket
BATCHES = ([1], [16], [5, 1, 7], [3] * 9, [30, 2])


def batch_of(lengths: list[int]) -> PackedBatch:
    ids = torch.randint(1, 97, (sum(lengths),)).split(lengths)
    types = torch.randint(0, 2, (sum(lengths),)).split(lengths)
    return from_lists([row.tolist() for row in ids], [row.tolist() for row in types])


def assert_same(replayed: ReplayedModel, model: CompactModel, batch: PackedBatch) -> None:
    with torch.no_grad():
        want = model(batch=batch)
    got = replayed(batch)
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name])


@pytest.mark.parametrize("changes", HEADS.values(), ids=HEADS)
def test_outputs_are_those_of_the_model(changes):
    model = model_of(**changes)
    replayed = ReplayedModel(model, capture=Captures())
    for lengths in (*BATCHES, *BATCHES):
        assert_same(replayed, model, batch_of(lengths))
    assert len(replayed.buckets) < len(BATCHES) + 1


def test_padding_is_no_sequence_of_the_outputs():
    model = model_of(head="classification")
    batch = dataclasses.replace(batch_of([4, 12, 3]), is_padded=True)
    got = ReplayedModel(model, capture=Captures())(batch)
    with torch.no_grad():
        want = model(batch=batch)
    assert got.logits.shape == want.logits.shape == (2, 2)
    torch.testing.assert_close(got.logits, want.logits)


def test_changed_weights_are_noticed():
    model = model_of(head="classification")
    captures = Captures()
    replayed = ReplayedModel(model, capture=captures)
    batch = batch_of([4, 12])
    replayed(batch)
    with torch.no_grad():
        model.classifier.bias.add_(1)
    assert_same(replayed, model, batch)
    model.double()
    assert_same(replayed, model, batch)
    assert len(captures.sizes) == 3


def test_replaced_modules_are_noticed():
    model = model_of(head="classification")
    replayed = ReplayedModel(model, capture=Captures())
    batch = batch_of([4, 12])
    replayed(batch)
    for layer in (torch.nn.Linear(24, 3), torch.nn.Linear(24, 2)):
        model.classifier = layer
        assert_same(replayed, model, batch)
    model.classifier.bias = torch.nn.Parameter(torch.ones(2))
    assert_same(replayed, model, batch)


def test_outputs_are_those_asked_for():
    model = model_of(head="classification")
    replayed = ReplayedModel(model, outputs=("logits",), capture=Captures())
    batch = batch_of([4, 12])
    got = replayed(batch)
    assert list(got.keys()) == ["logits"]
    with torch.no_grad():
        torch.testing.assert_close(got.logits, model(batch=batch).logits)
    for outputs in (("start_logits",), ()):
        with pytest.raises(ValueError, match="outputs must name some of pooler_output, logits, last_hidden_state"):
            ReplayedModel(model, outputs=outputs, capture=Captures())


def test_refresh_drops_the_graphs():
    replayed = ReplayedModel(model_of(), capture=Captures())
    replayed(batch_of([4]))
    replayed.refresh()
    assert replayed.buckets == ()


@pytest.mark.parametrize("empty", [0, 1])
def test_inputs_survive_the_packing(empty):
    batch, bucket = batch_of([3, 4]), Bucket(4 + empty, 16, 8)
    padded = unpack_inputs(pack_inputs(batch, bucket), bucket)
    assert padded.cu_seqlens.tolist() == [0, 3, 7, *[7] * empty, 8, 16]
    for name in ("input_ids", "token_type_ids", "position_ids"):
        rows = getattr(padded, name)
        assert torch.equal(rows[:7], getattr(batch, name)) and (rows[7:] == 0).all()


def test_wrong_calls_are_refused():
    replayed = ReplayedModel(model_of(), capture=Captures())
    with pytest.raises(ValueError, match="at most 40 tokens, got 41"):
        replayed(batch_of([41]))
    with pytest.raises(ValueError, match="batch must be on the device of the model, cpu, got meta"):
        replayed(batch_of([3]).to("meta"))
    with pytest.raises(ValueError, match="model must be on a CUDA device to be captured, got cpu"):
        ReplayedModel(model_of())


@pytest.mark.gpu
@pytest.mark.parametrize("changes", HEADS.values(), ids=HEADS)
def test_captured_graphs_give_what_the_model_gives(changes):
    model = model_of(**changes).cuda().half()
    replayed = ReplayedModel(model, capture=CudaCapture())
    for lengths in (*BATCHES, *reversed(BATCHES)):
        assert_same(replayed, model, batch_of(lengths).to("cuda"))
