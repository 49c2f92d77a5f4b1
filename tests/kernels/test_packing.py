"""Packed rows and padded ones: nothing lost, nothing moved; groups of like length; bounds that do not fit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofi_kernels import packing

LENGTHS = st.lists(st.integers(0, 9), max_size=12)


def bounds(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


@given(LENGTHS, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_padding_matches_a_slow_loop_and_comes_back(lengths, slack):
    n_tokens, width = sum(lengths), max(lengths, default=0) + slack
    packed = torch.randn(n_tokens, 2)
    padded = packing.pad(packed, bounds(lengths), width)
    valid = packing.valid_positions(bounds(lengths), width)
    assert padded.shape == (len(lengths), width, 2) and valid.shape == (len(lengths), width)
    for b, rows in enumerate(packed.split(lengths) if lengths else []):
        assert torch.equal(padded[b, : lengths[b]], rows) and not padded[b, lengths[b] :].any()
        assert valid[b].tolist() == [s < lengths[b] for s in range(width)]
    assert torch.equal(packing.unpad(padded, bounds(lengths), n_tokens), packed)


@given(LENGTHS)
@settings(max_examples=50, deadline=None)
def test_token_index_names_sequence_and_position(lengths):
    index = packing.token_index(bounds(lengths), sum(lengths))
    want = [(b, s) for b, n in enumerate(lengths) for s in range(n)]
    assert list(zip(index.sequence.tolist(), index.position.tolist(), strict=True)) == want


def test_padding_passes_gradients():
    packed = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: packing.pad(x, bounds([3, 0, 5]), 6), packed)
    padded = torch.randn(3, 6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: packing.unpad(x, bounds([3, 0, 5]), 8), padded)


@given(LENGTHS, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_groups_hold_every_row_once_and_give_it_back(lengths, n_heads):
    n_tokens = sum(lengths)
    packed, out = torch.randn(n_tokens, 2), torch.full((n_tokens, 2), float("nan"))
    groups = packing.length_groups(bounds(lengths), 9, n_tokens, n_heads)
    for group in groups:
        taken = group.take(packed)
        assert taken.shape == (group.n_sequences * group.seqlen, 2)
        held = [group.seqlen] * group.n_sequences if group.lengths is None else group.lengths.tolist()
        padding = group.n_sequences * group.seqlen**2 - sum(n * n for n in held)
        assert padding * n_heads <= packing.PADDING_ELEMENTS
        group.put(taken, out)
    assert torch.equal(out, packed)
    assert sum(group.n_sequences for group in groups) == sum(n > 0 for n in lengths)


def test_sequences_side_by_side_are_a_view():
    packed = torch.randn(21, 2)
    (group,) = packing.length_groups(bounds([7, 7, 7]), 7, 21, 1)
    assert group.key_mask() is None and group.take(packed).data_ptr() == packed.data_ptr()


def test_groups_stay_small_enough_for_the_cache(monkeypatch):
    monkeypatch.setattr(packing, "GROUP_ELEMENTS", 2 * 3 * 7 * 7)
    packing._groups.cache_clear()
    groups = packing.length_groups(bounds([7] * 5), 7, 35, 3)
    packing._groups.cache_clear()
    assert [group.n_sequences for group in groups] == [2, 2, 1]


def test_padding_repeats_a_sequences_own_rows():
    (group,) = packing.length_groups(bounds([9, 8]), 9, 17, 1)
    assert group.rows.tolist() == [*range(9), *range(9, 17), 16]
    assert group.key_mask().shape == (2, 1, 1, 9) and group.key_mask().sum() == 17


@pytest.mark.parametrize(
    "lengths, longest, n_tokens, message",
    [
        ([2, 3], 3, 6, "start at 0 and end at 6 tokens, got 0 and 5"),
        ([7, -2], 7, 5, "must ascend, got a step of -2"),
        ([2, 3], 2, 5, "at least the longest sequence, 3, got 2"),
    ],
    ids=["end", "step back", "longest"],
)
def test_bounds_that_do_not_fit_are_refused(lengths, longest, n_tokens, message):
    with pytest.raises(ValueError, match=message):
        packing.length_groups(bounds(lengths), longest, n_tokens, 1)
