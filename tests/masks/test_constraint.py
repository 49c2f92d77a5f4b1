"""What is held to a target, expected or kept, and masks brought to it."""

from __future__ import annotations

import pytest
import torch

from cofi.masks import Constraint, Gates, ModelShape, SparsityTarget, expected_sparsity, fit, sparsity

from .cases import SHAPE, SUBSETS, spread_gates

BERT_SMALL = ModelShape(n_layers=4, n_heads=8, head_dim=16, d_hidden=128, d_int=512)


def learned_gates(seed: int, kinds: str = "all") -> Gates:
    """Gates like those of a run: some decided, many open, layer gates near their threshold."""
    gates = Gates(BERT_SMALL, kinds, init_means="sheared", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        gates.loga.copy_(torch.randn(gates.loga.shape, generator=generator) * 2.5 - 1.0)
        if "hidden" in gates.kinds:
            gates.views()["hidden"].add_(3.0)
        gates.clamp_()
    return gates


def kept_sparsity(gates: Gates, shifts: dict[str, float]) -> float:
    return sparsity(gates.deterministic(shifts).structure(gates.shape), gates.shape)


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_what_masks_remove_is_what_their_structure_says(kinds):
    gates = spread_gates(kinds)
    masks = gates.deterministic()
    found = SparsityTarget(SHAPE, 0.5).of_masks(masks.alive())
    assert found.item() == pytest.approx(sparsity(masks.structure(SHAPE), SHAPE), abs=1e-6)


class TestReduction:
    def test_expected_is_the_papers(self):
        gates = spread_gates()
        value, facts = Constraint(SparsityTarget(SHAPE, 0.5)).reduction(gates)
        assert value.item() == expected_sparsity(gates).item() and list(facts) == ["expected_sparsity"]

    def test_kept_has_the_value_of_the_masks_and_the_gradient_of_the_expected(self):
        gates, twin = spread_gates(), spread_gates()
        value, facts = Constraint(SparsityTarget(SHAPE, 0.5), "kept").reduction(gates)
        assert value.item() == pytest.approx(kept_sparsity(gates, {}), abs=1e-6)
        assert abs(value.item() - expected_sparsity(gates).item()) > 0.01  # otherwise this tests nothing
        assert facts["kept_sparsity"].item() == pytest.approx(value.item())
        value.backward()
        expected_sparsity(twin).backward()
        assert torch.equal(gates.loga.grad, twin.loga.grad) and gates.loga.grad.any()

    @pytest.mark.parametrize("bad", [{"counts": "kept "}, {"epsilon": 1.0}, {"epsilon": -0.1}])
    def test_bad_arguments_are_named(self, bad):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Constraint(SparsityTarget(SHAPE, 0.5), **bad)

    def test_a_sparsity_of_one_is_refused(self):
        with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\), got 1"):
            SparsityTarget(SHAPE, 1.0)


class TestFit:
    @pytest.mark.parametrize("goal", [0.3, 0.6, 0.8, 0.95])
    @pytest.mark.parametrize("seed", range(3))
    def test_kept_meets_the_goal_within_a_unit(self, seed, goal):
        gates = learned_gates(seed)
        shifts = fit(gates, SparsityTarget(BERT_SMALL, goal))
        assert kept_sparsity(gates, shifts) == pytest.approx(goal, abs=1e-3)

    def test_a_leap_of_a_whole_sublayer_is_made_up_for(self):
        """One shift of all kinds must miss here: a third of the model hangs on one gate."""
        gates = learned_gates(0, "int,ffn")
        with torch.no_grad():
            gates.loga.fill_(3.0)
            gates.views()["ffn"].fill_(-1.0)
        target = SparsityTarget(BERT_SMALL, 0.5)
        sizes = {round(kept_sparsity(gates, dict.fromkeys(("int", "ffn"), s / 10)), 6) for s in range(-60, 61)}
        assert min(abs(size - 0.5) for size in sizes) > 0.05
        assert kept_sparsity(gates, fit(gates, target)) == pytest.approx(0.5, abs=1e-3)

    def test_masks_on_target_are_left_alone(self):
        gates = learned_gates(0)
        target = SparsityTarget(BERT_SMALL, kept_sparsity(gates, {}))
        assert not any(fit(gates, target).values())

    @pytest.mark.parametrize(("kinds", "goal"), [("head", 0.9), ("mha", 0.2), ("mha,ffn", 0.4)])
    def test_coarse_kinds_alone_come_as_near_as_their_units_allow(self, kinds, goal):
        gates = learned_gates(1, kinds)
        found = kept_sparsity(gates, fit(gates, SparsityTarget(BERT_SMALL, goal)))
        sizes = [kept_sparsity(gates, dict.fromkeys(gates.kinds, s / 20)) for s in range(-400, 401)]
        assert abs(found - goal) == pytest.approx(min(abs(size - goal) for size in sizes), abs=1e-6)

    def test_shifted_masks_keep_their_soft_values(self):
        gates = learned_gates(2)
        plain, shifted = gates.deterministic(), gates.deterministic({"int": -1.0})
        both = (plain.z_int != 0) & (shifted.z_int != 0)
        assert 0 < both.sum() < (plain.z_int != 0).sum()
        torch.testing.assert_close(shifted.z_int[both], plain.z_int[both])
        assert torch.equal(shifted.z_head, gates.deterministic({"int": -1.0, "head": 0.0}).z_head)

    def test_only_a_constraint_on_kept_size_fits(self):
        gates, target = learned_gates(0), SparsityTarget(BERT_SMALL, 0.6)
        assert Constraint(target, "expected").masks(gates, fitted=True)[1] == {}
        kept = Constraint(target, "kept")
        assert kept.masks(gates, fitted=False)[1] == {}
        masks, shifts = kept.masks(gates, fitted=True)
        assert (
            shifts
            and kept.is_met(gates, masks)
            and kept.values(gates, masks)["kept_sparsity"] == pytest.approx(0.6, abs=1e-3)
        )
