"""Movement scores: what they are, which blocks they keep, how the budget falls."""

from __future__ import annotations

import pytest
import torch

from cofi.baselines import MovementGates, MovementRamp
from cofi.masks import ModelShape, kept_parameters

SHAPE = ModelShape(n_layers=3, n_heads=5, head_dim=7, d_hidden=35, d_int=53)
N_HEADS, N_DIMS = 15, 159


def gates_with(scores: torch.Tensor, target: float) -> MovementGates:
    gates = MovementGates(SHAPE)
    with torch.no_grad():
        gates.loga[: N_HEADS + N_DIMS] = scores
    gates.target_sparsity.fill_(target)
    return gates


@pytest.mark.parametrize("target", [0.0, 0.5, 0.95, 0.9999], ids=str)
def test_blocks_of_the_highest_scores_stay_within_the_budget(target):
    scores = torch.randperm(N_HEADS + N_DIMS).float()
    masks = gates_with(scores, target).deterministic()
    lost_dims = 0
    for z, of_kind in ((masks.z_head.ravel(), scores[:N_HEADS]), (masks.z_int.ravel(), scores[N_HEADS:])):
        assert set(z.unique().tolist()) <= {0.0, 1.0}
        kept, lost = of_kind[z == 1], of_kind[z == 0]
        assert not len(kept) or not len(lost) or kept.min() > lost.max()
        lost_dims = len(lost)
    left = kept_parameters(masks.structure(SHAPE), SHAPE)
    budget = (1 - target) * SHAPE.prunable_size
    assert left <= budget and (budget < left + 2 * 35 or lost_dims == 0)  # no dim more would fit
    assert torch.equal(masks.z_mha, masks.z_head.amax(1)) and torch.equal(masks.z_ffn, masks.z_int.amax(1))


def test_the_gradient_of_a_mask_reaches_its_score():
    gates = gates_with(torch.arange(N_HEADS + N_DIMS).float(), 0.5)
    masks = gates.sample(torch.zeros(1))
    weight = torch.randn(3, 5), torch.randn(3, 53)
    ((masks.z_head * weight[0]).sum() + (masks.z_int * weight[1]).sum()).backward()
    assert torch.allclose(gates.loga.grad[: N_HEADS + N_DIMS], torch.cat([w.ravel() for w in weight]))


def test_the_budget_rests_then_falls_along_a_cubic():
    gates = MovementGates(SHAPE)
    ramp = MovementRamp(0.8, warmup_steps=100, gates=gates)
    assert [ramp(step) for step in (0, 20)] == [0.0, 0.0]
    assert ramp(60) == pytest.approx(0.8 * (1 - 0.5**3))
    assert float(gates.target_sparsity) == pytest.approx(0.7)
    assert [ramp(step) for step in (100, 1000)] == [0.8, 0.8]
    assert MovementRamp(0.8, warmup_steps=0, gates=gates)(0) == 0.8
