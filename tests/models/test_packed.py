"""Packing and unpacking: nothing lost, nothing moved, clear errors."""

from __future__ import annotations

import pytest
import torch

from cofi.models import from_lists, pack_padded, pad_packed
from cofi.models.packed import pinned, sent

from .tiny import flipped, padded_inputs

LISTS = [[7, 8, 9], [4], [5, 6]]


def test_from_lists():
    batch = from_lists(LISTS, [[0, 0, 1], [0], [1, 1]])
    assert batch.input_ids.tolist() == [7, 8, 9, 4, 5, 6]
    assert batch.token_type_ids.tolist() == [0, 0, 1, 0, 1, 1]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert (batch.max_seqlen, batch.n_sequences, batch.n_tokens) == (3, 3, 6)
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.input_ids.dtype == batch.token_type_ids.dtype == batch.position_ids.dtype == torch.int64


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_on_either_side_packs_alike(side):
    inputs = padded_inputs()
    expected = from_lists(
        [ids[mask != 0].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)],
        [ids[mask != 0].tolist() for ids, mask in zip(inputs["token_type_ids"], inputs["attention_mask"], strict=True)],
    )
    batch = pack_padded(**(inputs if side == "right" else flipped(inputs)))
    assert batch.max_seqlen == expected.max_seqlen
    for name in ("input_ids", "token_type_ids", "position_ids", "cu_seqlens"):
        assert torch.equal(getattr(batch, name), getattr(expected, name)), name


def test_without_mask_every_place_is_a_token():
    batch = pack_padded(torch.tensor([[1, 2], [3, 4]]))
    assert batch.input_ids.tolist() == [1, 2, 3, 4]
    assert batch.position_ids.tolist() == [0, 1, 0, 1]
    assert batch.cu_seqlens.tolist() == [0, 2, 4]


def test_given_positions_are_kept():
    ids, mask = torch.tensor([[0, 2], [3, 4]]), torch.tensor([[0, 1], [1, 1]])
    assert pack_padded(ids, mask, position_ids=torch.tensor([[5, 6]])).position_ids.tolist() == [6, 5, 6]


def test_pad_packed_is_the_inverse_and_differentiable():
    inputs = padded_inputs()
    mask = inputs["attention_mask"]
    batch = pack_padded(**inputs)
    x = torch.randn(batch.n_tokens, 5, requires_grad=True)
    padded = pad_packed(x, batch.cu_seqlens, mask.shape[1], fill=-7.0)
    assert torch.equal(padded[mask != 0], x)
    assert (padded[mask == 0] == -7.0).all()
    upstream = torch.randn_like(padded)
    padded.backward(upstream)
    assert torch.equal(x.grad, upstream[mask != 0])


def test_moves_between_devices():
    batch = from_lists(LISTS).to("meta")
    assert {t.device.type for t in (batch.input_ids, batch.token_type_ids, batch.position_ids, batch.cu_seqlens)} == {
        "meta"
    }
    assert batch.max_seqlen == 3


def test_row_without_tokens_is_named():
    with pytest.raises(ValueError, match="got none in row 1"):
        pack_padded(torch.ones(3, 2, dtype=torch.long), torch.tensor([[1, 1], [0, 0], [1, 0]]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: from_lists([]), "at least one sequence"),
        (lambda: from_lists([[1], []]), r"input_ids\[1\] must hold at least one token"),
        (lambda: from_lists([[1, 2]], [[0]]), r"token_type_ids\[0\] must hold 2 values, got 1"),
        (lambda: pack_padded(torch.ones(3)), r"input_ids must have shape \(B, S\)"),
        (lambda: pack_padded(torch.ones(0, 3)), r"input_ids must have shape \(B, S\)"),
        (lambda: pack_padded(torch.ones(2, 3), torch.ones(2, 4)), "attention_mask must have the shape of input_ids"),
        (lambda: pack_padded(torch.ones(2, 3).long(), None, torch.ones(3, 2)), "token_type_ids must have shape"),
        (lambda: pack_padded(torch.ones(2, 3).long(), position_ids=torch.ones(3)), "position_ids must have shape"),
    ],
)
def test_rejects(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(("device", "want"), [("cuda", 1), ("cuda:0", 1), ("cpu", 0), ("meta", 0)])
def test_only_what_goes_to_a_gpu_is_pinned(device, want, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: asked.append(x) or x)
    x = torch.arange(3)
    assert pinned(x, device) is x
    assert len(asked) == want


def test_sent_stays_where_it_is_already():
    x = torch.arange(3)
    assert sent(x, "cpu") is x
    assert sent(x, "meta").device.type == "meta"


@pytest.mark.gpu
def test_a_batch_goes_to_a_gpu_without_waiting():
    batch = from_lists(LISTS)
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)  # a tenth of a second
    moved = batch.to("cuda")
    assert not torch.cuda.current_stream().query()
    assert moved.input_ids.tolist() == batch.input_ids.tolist()
