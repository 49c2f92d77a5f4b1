"""The C++ model from padded ids to logits: against the three ops it joins in fp64, wrong input, threads, bits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cofi_kernels import compact_encoder, first_token_head, force_backend, token_embedding
from cofi_kernels.compact_encoder.packed import PackedEncoder
from cofi_kernels.compact_model.cpu import EmbeddingWeights, HeadWeights, NativeModel
from cofi_kernels.native import load_native, why_not_native
from cofi_kernels.testing import assert_close_to_fp64

from .encoders import MIXED, bounds_of, weights_of

pytestmark = pytest.mark.skipif(load_native() is None, reason=str(why_not_native()))

HIDDEN, WORDS, POSITIONS = 29, 53, 24
MASKS = {
    "full": [[1] * 5] * 3,
    "right": [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]],
    "left": [[0, 0, 0, 0, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0, 1], [0, 7, 0, 0, 0], [0, 1, 0, -1, 0]],
    "one token": [[1]],
    "longest": [[1] * 20, [1] + [0] * 19],
}


class Case:
    """Random weights, and their model as one call and as three ops."""

    def __init__(self, layout=MIXED, pooler=11, labels=3, types=2, first=2, activation="tanh", hidden=HIDDEN):
        self.layout = layout
        self.weights = weights_of(layout, hidden, "cpu", torch.float32)
        tables = [torch.randn(n, hidden) for n in (WORDS, POSITIONS, types)]
        self.embeddings = EmbeddingWeights(
            *tables[:2], tables[2] if types else None, torch.randn(hidden), torch.randn(hidden), 1e-5, first
        )
        width = pooler or hidden
        self.head = HeadWeights(
            *((torch.randn(pooler, hidden) / hidden**0.5, torch.randn(pooler)) if pooler else (None, None)),
            activation,
            *((torch.randn(labels, width) / width**0.5, torch.randn(labels)) if labels else (None, None)),
        )
        self.native = NativeModel(PackedEncoder(self.weights, layout, hidden), self.embeddings, self.head)

    def inputs(self, mask: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        shape = (len(mask), len(mask[0]))
        types = 1 if self.embeddings.token_type is None else self.embeddings.token_type.shape[0]
        return torch.randint(WORDS, shape), torch.tensor(mask), torch.randint(types, shape)

    def in_fp64(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the ops' definitions make of the tokens, sequence by sequence."""
        e, h = ([v.double() if isinstance(v, Tensor) else v for v in w] for w in (self.embeddings, self.head))
        kept = [row.nonzero().squeeze(1) for row in mask]
        lengths = [len(columns) for columns in kept]
        numbers = [torch.cat([row[columns] for row, columns in zip(t, kept, strict=True)]) for t in (ids, types)]
        positions = torch.cat([e[6] + torch.arange(n) for n in lengths])
        bounds = bounds_of(lengths, "cpu")
        with torch.no_grad(), force_backend("reference"):
            x = token_embedding(numbers[0], positions, None if e[2] is None else numbers[1], *e[:6])
            x = compact_encoder(x, bounds, max(lengths), [w.double() for w in self.weights], self.layout)
            pooled, logits = first_token_head(x, bounds, h[0], h[1], h[3], h[4], activation=h[2])
        states = torch.zeros(*ids.shape, x.shape[1], dtype=torch.float64)
        states[mask != 0] = x
        return pooled, logits, states

    def check(self, mask: list[list[int]]) -> None:
        inputs = self.inputs(mask)
        for got, want in zip(self.native(*inputs), self.in_fp64(*inputs), strict=True):
            assert_close_to_fp64(got, want)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_values_match_fp64(isa, mask):
    Case().check(mask)


@pytest.mark.parametrize(
    "changes", [{"pooler": 0}, {"labels": 0}, {"pooler": 0, "labels": 0}, {"types": 0}, {"first": 0}]
)
def test_parts_that_are_not_there(changes):
    case = Case(**changes)
    case.check(MASKS["holes"])
    pooled, logits, _ = case.native(*case.inputs(MASKS["full"]))
    assert (pooled.shape[1], logits.shape[1]) == (changes.get("pooler", 11), changes.get("labels", 3))


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
def test_activations_of_the_pooler(activation):
    Case(activation=activation).check(MASKS["right"])


def test_no_layer_at_all():
    dead = replace(MIXED, heads=(0,), intermediate=(0,), mha=(False,), ffn=(False,))
    Case(dead).check(MASKS["right"])


@pytest.mark.parametrize("hidden", [1, 16, 97])
def test_awkward_widths(isa, hidden):
    Case(hidden=hidden).check(MASKS["left"])


def test_without_mask_and_types_every_token_counts_and_has_type_0():
    case = Case()
    ids, mask, types = case.inputs(MASKS["full"])
    for got, want in zip(case.native(ids, None, None), case.native(ids, mask, torch.zeros_like(types)), strict=True):
        assert torch.equal(got, want)


WRONG = {
    "row without a token": lambda ids, mask, types: mask[1].fill_(0),
    "id below its table": lambda ids, mask, types: ids[2].fill_(-1),
    "id beyond its table": lambda ids, mask, types: ids[0].fill_(WORDS),
    "type beyond its table": lambda ids, mask, types: types[0].fill_(2),
}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
def test_wrong_input_is_not_taken(spoil):
    case = Case()
    inputs = case.inputs(MASKS["right"])
    spoil(*inputs)
    assert case.native(*inputs) is None


def test_a_sequence_that_has_more_tokens_than_there_are_positions_is_not_taken():
    case = Case(first=2)
    assert case.native(*case.inputs([[1] * (POSITIONS - 2)])) is not None
    assert case.native(*case.inputs([[1] * (POSITIONS - 1)])) is None


def test_numbers_at_padding_do_not_count():
    case = Case()
    ids, mask, types = case.inputs(MASKS["holes"])
    before = case.native(ids, mask, types)
    for t in (ids, types):
        t[mask == 0] = -(2**40)
    for got, want in zip(case.native(ids, mask, types), before, strict=True):
        assert torch.equal(got, want)


def test_same_bits_from_any_number_of_threads_and_callers():
    case = Case(hidden=131, pooler=257)
    inputs = [case.inputs([[1] * length + [0] * (20 - length) for length in (20, 3, 17, 1, 9)]) for _ in range(4)]
    want = [case.native(*given) for given in inputs]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [case.native(*given) for given in inputs]
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda given: case.native(*given), inputs * 5))
    for got, expected in zip(alone + together, want * 6, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
