"""Gates that start by what units are worth, and the rounding that keeps no unit which is shut."""

from __future__ import annotations

import pytest
import torch

from cofi.masks import (
    Gates,
    ModelShape,
    SparsityTarget,
    behind_those_kept,
    expected_sparsity,
    fit,
    sparsity,
    start_by_worth,
    unit_weights,
)
from cofi.masks.gates import MAX_LOGA

from .cases import SHAPE, spread_gates

SMALL = ModelShape(n_layers=4, n_heads=8, head_dim=16, d_hidden=128, d_int=512)


def scores(shape: ModelShape, seed: int = 0) -> dict[str, torch.Tensor]:
    """Heavy-tailed, as Fisher scores are."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"head": (shape.n_layers, shape.n_heads), "int": (shape.n_layers, shape.d_int)}
    return {kind: torch.randn(size, generator=generator).mul(3).exp() for kind, size in sizes.items()}


def started(goal: float, kinds: str = "all", rounding: str = "threshold", seed: int = 0) -> Gates:
    gates = Gates(SMALL, kinds, rounding=rounding, seed=0)
    start_by_worth(gates, scores(SMALL, seed), SparsityTarget(SMALL, goal))
    return gates


class TestStart:
    @pytest.mark.parametrize("goal", [0.0, 0.3, 0.8, 0.95, 0.999])
    @pytest.mark.parametrize("seed", range(3))
    def test_the_masks_are_on_target(self, goal, seed):
        gates = started(goal, seed=seed)
        found = sparsity(gates.deterministic().structure(SMALL), SMALL)
        one_head = SMALL.head_weights / SMALL.prunable_size
        assert goal - 1e-6 <= found <= goal + one_head + 1e-4

    @pytest.mark.parametrize("goal", [0.5, 0.9])
    def test_the_units_kept_are_those_of_most_worth_per_weight(self, goal):
        gates = started(goal)
        masks, given = gates.deterministic(), scores(SMALL)
        kept = torch.cat([masks.z_head.flatten(), masks.z_int.flatten()]) > 0
        worth = torch.cat([given["head"].flatten(), given["int"].flatten()]) / unit_weights(SMALL)
        assert 0 < kept.sum() < kept.numel()
        assert worth[kept].min() > worth[~kept].max()

    def test_log_odds_rise_with_worth_up_to_their_limits(self):
        gates = started(0.8)
        loga = torch.cat([gates.views()[kind].detach().flatten() for kind in ("head", "int")])
        given = scores(SMALL)
        worth = torch.cat([given["head"].flatten(), given["int"].flatten()]) / unit_weights(SMALL)
        assert (loga[worth.argsort()].diff() >= 0).all()
        assert loga.min() == pytest.approx(-MAX_LOGA) and loga.max() == pytest.approx(MAX_LOGA)
        assert ((loga.abs() < MAX_LOGA - 0.1).float().mean()) > 0.05  # a border that learning can move

    def test_other_kinds_stay_as_they_are_and_kinds_may_be_missing(self):
        views, untouched = started(0.3).views(), Gates(SMALL, "all", seed=0).views()
        assert all(torch.equal(views[kind], untouched[kind]) for kind in ("hidden", "mha", "ffn"))
        assert sparsity(started(0.4, "int").deterministic().structure(SMALL), SMALL) == pytest.approx(0.4, abs=1e-3)

    @pytest.mark.parametrize("goal", [0.9, 0.97])
    def test_sublayers_left_without_units_are_shut(self, goal):
        views, untouched = started(goal).views(), Gates(SMALL, "all", seed=0).views()
        assert torch.equal(views["hidden"], untouched["hidden"])
        structure = started(goal).deterministic().structure(SMALL)
        for kind, units in (("mha", structure.heads), ("ffn", structure.intermediate)):
            empty = torch.tensor(units) == 0
            assert torch.equal(views[kind][~empty], untouched[kind][~empty])
            assert (views[kind][empty] == -MAX_LOGA).all()
        assert 0 in structure.heads + structure.intermediate and any(structure.heads + structure.intermediate)

    def test_the_expected_size_is_near_the_kept_one(self):
        """Or the constraint would move the border at once."""
        assert float(expected_sparsity(started(0.8)).detach()) == pytest.approx(0.8, abs=0.05)

    def test_equal_scores_are_no_obstacle(self):
        gates = Gates(SMALL, "all", rounding="threshold", seed=0)
        ones = {kind: torch.ones_like(score) for kind, score in scores(SMALL).items()}
        start_by_worth(gates, ones, SparsityTarget(SMALL, 0.5))
        assert sparsity(gates.deterministic().structure(SMALL), SMALL) == pytest.approx(0.5, abs=0.01)


class TestAgain:
    """Gates that are set once more, closer to the target, by scores of the masked model."""

    def again(self, goal: float, kinds: str = "all") -> tuple[Gates, dict[str, torch.Tensor], Gates]:
        before = started(0.5, kinds)
        masks = before.deterministic().by_kind()
        measured = {
            kind: score * (masks[kind] > 0) if kind in masks else score for kind, score in scores(SMALL, 7).items()
        }
        gates = started(0.5, kinds)
        start_by_worth(gates, behind_those_kept(gates, measured), SparsityTarget(SMALL, 0.99), goal)
        return gates, measured, before

    @pytest.mark.parametrize("goal", [0.6, 0.9])
    def test_the_units_kept_are_the_best_of_those_that_were(self, goal):
        gates, measured, before = self.again(goal)
        found = sparsity(gates.deterministic().structure(SMALL), SMALL)
        assert goal - 1e-6 <= found <= goal + SMALL.head_weights / SMALL.prunable_size + 1e-4
        kept, was = (
            torch.cat([z.z_head.flatten(), z.z_int.flatten()]) > 0
            for z in (gates.deterministic(), before.deterministic())
        )
        worth = torch.cat([measured["head"].flatten(), measured["int"].flatten()]) / unit_weights(SMALL)
        assert 0 < kept.sum() < was.sum()
        assert not (kept & ~was).any()
        assert worth[kept].min() > worth[was & ~kept].max()

    def test_units_that_were_cut_come_back_in_their_order(self):
        """Where the target asks for less than there was: nothing was measured of them."""
        gates, _, before = self.again(0.3)
        kept, was = (
            torch.cat([z.z_head.flatten(), z.z_int.flatten()]) > 0
            for z in (gates.deterministic(), before.deterministic())
        )
        loga = torch.cat([before.views()[kind].detach().flatten() for kind in ("head", "int")])
        assert (kept | ~was).all() and (kept & ~was).any()
        assert loga[kept & ~was].min() >= loga[~kept].max()

    def test_a_kind_without_gates_keeps_its_scores(self):
        gates = started(0.4, "int")
        given = scores(SMALL)
        assert torch.equal(behind_those_kept(gates, given)["head"], given["head"])


class TestThreshold:
    def test_units_stay_whose_chance_is_above_one_half(self):
        expected = spread_gates()
        gates = Gates(SHAPE, "all", rounding="threshold", seed=0)
        gates.load_state_dict({"loga": expected.loga, "_extra_state": gates.get_extra_state()})
        z, soft = gates.deterministic().by_kind(), torch.sigmoid(gates.loga.detach() / (2 / 3) * 0.8)
        flat = torch.cat([mask.flatten() for mask in z.values()])
        p = torch.cat([p.detach().flatten() for p in gates.keep_probabilities().values()])
        assert torch.equal(flat > 0, p > 0.5)
        torch.testing.assert_close(flat[flat > 0], soft[flat > 0])

    def test_shut_gates_keep_nothing_where_the_paper_keeps_a_twentieth(self):
        kept = {}
        for rounding in ("expected", "threshold"):
            gates = Gates(SMALL, "int", init_means={"int": -MAX_LOGA}, init_std=0.0, rounding=rounding, seed=0)
            kept[rounding] = gates.deterministic().structure(SMALL).intermediate
        assert kept == {"expected": (24,) * 4, "threshold": (0,) * 4}

    def test_a_sublayer_without_units_is_gone_whatever_its_own_gate_says(self):
        shut = torch.tensor([True, False, False, True])
        gates = Gates(SMALL, "all", rounding="threshold", seed=0)
        gates.views()["head"].data[shut] = -MAX_LOGA
        gates.views()["int"].data[~shut] = -MAX_LOGA
        assert (gates.views()["mha"] > 0).all() and (gates.views()["ffn"] > 0).all()
        structure = gates.deterministic().structure(SMALL)
        assert structure.mha == tuple((~shut).tolist()) and structure.ffn == tuple(shut.tolist())
        # of layers that have no gate of their own the bias and the LayerNorm stay
        gates = Gates(SMALL, "int", init_means={"int": -MAX_LOGA}, rounding="threshold", seed=0)
        assert gates.deterministic().structure(SMALL).ffn == (True,) * 4

    def test_a_shift_moves_the_threshold_alone(self):
        gates = started(0.8)
        before, after = gates.deterministic(), gates.deterministic({"int": 1.0})
        assert (after.z_int > 0).sum() > (before.z_int > 0).sum()
        assert torch.equal(after.z_head, before.z_head)
        both = before.z_int > 0
        assert torch.equal(after.z_int[both], before.z_int[both])

    @pytest.mark.parametrize("goal", [0.3, 0.6, 0.9])
    def test_a_shift_opens_gates_at_a_limit_one_by_one(self, goal):
        gates = Gates(SMALL, "int", init_means={"int": -MAX_LOGA}, init_std=0.0, rounding="threshold", seed=0)
        with torch.no_grad():
            gates.views()["int"][:2] = MAX_LOGA
        target = SparsityTarget(SMALL, goal / 2)
        masks = gates.deterministic(fit(gates, target))
        assert sparsity(masks.structure(SMALL), SMALL) == pytest.approx(goal / 2, abs=1e-3)
        kept = masks.z_int > 0
        assert kept[:2].all() or not kept[2:].any()  # the open ones are the last to go

    def test_gates_of_one_rounding_are_not_taken_for_the_other(self):
        both = [Gates(SHAPE, "all", rounding=rounding, seed=0) for rounding in ("expected", "threshold")]
        for own, other, names in ((*both, "expected, got threshold"), (*both[::-1], "threshold, got expected")):
            with pytest.raises(ValueError, match=f"rounding {names}"):
                own.load_state_dict(other.state_dict())
        with pytest.raises(ValueError, match="rounding must be one of expected, threshold, got 'up'"):
            Gates(SHAPE, "all", rounding="up", seed=0)
