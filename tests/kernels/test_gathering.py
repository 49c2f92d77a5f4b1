"""What the gathered backends share: which units are computed, gradients put back, parts of a dropout counter."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import gathering
from cofi_kernels.counter_rng import ranges
from cofi_kernels.counter_rng.reference import keep_at


def test_units_are_gathered_where_that_saves_more_than_it_costs(monkeypatch):
    monkeypatch.setattr(gathering, "GATHER_COST_TOKENS", 48)
    z = torch.ones(100)
    z[[3, 50]] = 0.0
    assert gathering.live_units(None, 10_000) is None
    assert gathering.live_units(torch.ones(100), 10_000) is None
    assert gathering.live_units(z, 2352) is None  # 2 * 2352 = 48 * 98 tokens: no gain
    assert gathering.live_units(z, 2353).tolist() == [i for i in range(100) if i not in (3, 50)]
    assert gathering.live_units(torch.zeros(5), 1).tolist() == []


def test_rows_that_were_not_taken_have_no_gradient():
    weight, rows = torch.randn(3, 7, 2), torch.tensor([1, 4])
    taken = gathering.take(weight, rows, dim=1)
    back = gathering.put_back(taken, rows, 7, dim=1)
    assert torch.equal(back[:, rows], weight[:, rows])
    assert not back[:, [0, 2, 3, 5, 6]].any()
    assert gathering.take(weight, None) is weight and gathering.put_back(weight, None, 3) is weight


def test_folding_copies_nothing_without_masks():
    weight, bias = torch.randn(4, 3), torch.randn(3)
    folded = gathering.OutputProjection(weight, bias, None, None, None).folded()
    assert folded[0] is weight and folded[1] is bias


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "reference"])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999])
def test_part_of_a_counter_is_that_part(monkeypatch, compiled, p):
    if not compiled:
        monkeypatch.setattr(ranges, "load_native", lambda: None)
    elif ranges.load_native() is None:
        pytest.skip("no compiled kernels")
    state, first, n = torch.tensor([5, 2**40 + 3]), 2**33 + 7, 10007
    want = keep_at(state, torch.arange(first, first + n), p)
    assert torch.equal(ranges.keep_range(state, first, n, p), want)
