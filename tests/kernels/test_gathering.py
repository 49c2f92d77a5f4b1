"""What the gathered backends share: which units are computed, gradients put back, parts of a dropout counter."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import gathering
from cofi_kernels.counter_rng import ranges
from cofi_kernels.counter_rng.reference import keep_at
from cofi_kernels.testing import assert_close_to_fp64


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


MASKS = {
    "all": (True, True, True),
    "units": (True, False, False),
    "layer": (False, True, False),
    "hidden": (False, False, True),
    "layer and hidden": (False, True, True),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "passes"])
@pytest.mark.parametrize("present", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("size", [(5, 3, 7), (70, 130, 33), (9, 0, 4), (0, 6, 5)], ids=str)
def test_projection_is_its_formula_under_autograd(isa, monkeypatch, size, present, compiled):
    """tokens, units, hidden: with pieces of rows that are full and that are not."""
    if not compiled:
        monkeypatch.setattr(gathering, "load_native", lambda: None)
    n_tokens, n_units, n_hidden = size
    masks = [torch.rand(n) if here else None for n, here in zip((n_units, (), n_hidden), present, strict=True)]
    c, dy = torch.randn(n_tokens, n_units), torch.randn(n_tokens, n_hidden)
    weight, bias = torch.randn(n_units, n_hidden), torch.randn(n_hidden)
    leaves = [None if t is None else t.double().requires_grad_() for t in (c, weight, bias, *masks)]
    c64, weight64, bias64, *masks64 = leaves
    unit, layer, hidden = (1.0 if z is None else z for z in masks64)
    want = ((c64 * unit) @ weight64 + bias64) * layer * hidden
    wanted = [t for t in leaves if t is not None]
    dc, dweight, dbias, *dmasks = torch.autograd.grad(want, wanted, dy.double())
    projection = gathering.OutputProjection(weight, bias, *masks)
    assert_close_to_fp64(projection.forward(c), want)
    assert_close_to_fp64(projection.input_gradient(dy), dc)
    grads = projection.gradients(dy, c)
    assert_close_to_fp64(grads.dweight, dweight)
    assert_close_to_fp64(grads.dbias, dbias)
    found = [g for g, here in zip((grads.dz_unit, grads.dz_layer, grads.dz_hidden), present, strict=True) if here]
    scale = max((float(g.abs().max()) for g in dmasks if g.numel()), default=0.0)
    for g, w in zip(found, dmasks, strict=True):  # of the largest: one that is a single sum may happen to cancel
        torch.testing.assert_close(g.double(), w, rtol=0, atol=1e-5 * scale)


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
