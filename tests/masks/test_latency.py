"""Interpolated latency: the table itself, its gradient, masks against structures, and the target made of it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofi.masks import Constraint, LatencyModel, ModelShape, SpeedupTarget, fit
from cofi.masks.interpolation import curve, interpolate, monotone, surface

from .cases import SHAPE, SUBSETS, spread_gates
from .test_constraint import BERT_SMALL, learned_gates

numbers = st.floats(0, 100, allow_nan=False, width=32)


def latency_model(shape: ModelShape = SHAPE, *, whole: bool = True) -> LatencyModel:
    """A machine whose sublayers cost a start and then something a unit, half of it whatever the hidden size is."""
    widths = [1.0, shape.d_hidden / 2, float(shape.d_hidden)]

    def cost(units: list[float], unit_ms: float) -> list[list[float]]:
        return [[0.01 + unit_ms * n * (0.5 + 0.5 * e / shape.d_hidden) for e in widths] for n in units]

    heads, dims = [0.0, 1.0, float(shape.n_heads)], [0.0, 5.0, float(shape.d_int)]
    parts = [0.0, 1.0, 200.0]
    return LatencyModel(
        shape,
        surface(heads, widths, cost(heads, 0.5)),
        surface(dims, widths, cost(dims, 0.02)),
        curve(widths, [0.02, 0.03, 0.05]),
        curve(parts, [0.0, 1.0, 400.0] if whole else parts),
    )


class TestInterpolation:
    @given(st.lists(st.tuples(numbers, numbers), min_size=2, max_size=8, unique_by=lambda pair: round(pair[0], 2)))
    @settings(max_examples=60, deadline=None)
    def test_it_is_exact_at_knots_and_monotone_between(self, pairs):
        knots, values = zip(*sorted(pairs), strict=True)
        table = curve(knots, sorted(values))
        torch.testing.assert_close(table(table.knots), table.values, rtol=1e-6, atol=1e-5)
        x = torch.linspace(knots[0] - 5, knots[-1] + 5, 200)
        y = table(x)
        assert (y.diff() >= -1e-4).all()
        assert y[0] == table.values[0] and y[-1] == table.values[-1]  # constant beyond the ends

    @given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=5))
    @settings(max_examples=60, deadline=None)
    def test_a_noisy_table_is_made_monotone_along_both_axes(self, values):
        found = monotone(torch.tensor(values))
        assert (found.diff(dim=0) >= 0).all() and (found.diff(dim=1) >= 0).all()
        assert torch.equal(monotone(found), found)  # one that is already is left alone
        table = surface(range(len(values)), [1, 2, 4], values)
        rows = torch.linspace(0, len(values) - 1, 23)
        read = torch.stack([table(rows, torch.tensor(column)) for column in (1.0, 1.3, 2.0, 3.9, 4.0)], 1)
        assert (read.diff(dim=0) >= -1e-4).all() and (read.diff(dim=1) >= -1e-4).all()

    def test_a_surface_is_exact_at_its_knots(self):
        values = [[1.0, 2.0, 3.0], [2.0, 5.0, 8.0]]
        table = surface([0, 4], [1, 2, 4], values)
        read = torch.stack([table(torch.tensor([0.0, 4.0]), torch.tensor(c)) for c in (1.0, 2.0, 4.0)], 1)
        assert read.tolist() == values
        assert table(torch.tensor(2.0), torch.tensor(3.0)).item() == pytest.approx((2.5 + 6.5) / 2)

    def test_gradients_are_finite_differences(self):
        model = latency_model()
        table = model.attention
        table = type(table)(table.rows.double(), table.columns.double(), table.values.double())
        row = torch.tensor([0.3, 1.7, 2.9], dtype=torch.float64, requires_grad=True)
        column = torch.tensor(4.4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(table, (row, column))

    def test_at_a_knot_the_slope_is_that_to_the_right(self):
        knots, values = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.0, 5.0, 6.0])
        x = torch.tensor([0.0, 1.0, 3.0, 4.0], requires_grad=True)
        interpolate(x, knots, values).sum().backward()
        assert x.grad.tolist() == [5.0, 0.5, 0.5, 0.0]

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: curve([1, 1], [0, 0]), "knots must be two or more rising numbers"),
            (lambda: curve([1], [0]), "knots must be"),
            (lambda: curve([0, 1], [0]), "one entry for each of 2"),
            (lambda: surface([0, 1], [2, 1], [[0, 0], [0, 0]]), "columns must be"),
            (lambda: surface([0, 1], [1, 2], [[0, 0]]), "2 rows of 2"),
        ],
    )
    def test_what_is_no_table_is_refused(self, make, words):
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_masks_and_the_structure_they_leave_have_one_latency(kinds):
    for seed in range(3):
        masks = spread_gates(kinds, seed=seed).deterministic()
        model = latency_model()
        structure = masks.structure(SHAPE)
        assert model(masks.alive()).item() == pytest.approx(model.of_structure(structure), rel=1e-6)
        parts = sum(
            float(model.attention(torch.tensor(float(n)), torch.tensor(float(structure.hidden))))
            for n, kept in zip(structure.heads, structure.mha, strict=True)
            if kept
        )
        parts += sum(
            float(model.ffn(torch.tensor(float(n)), torch.tensor(float(structure.hidden))))
            for n, kept in zip(structure.intermediate, structure.ffn, strict=True)
            if kept
        )
        parts += float(model.fixed(torch.tensor(float(structure.hidden))))
        assert model.parts(masks.alive()).item() == pytest.approx(parts, rel=1e-5)


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_gradient_of_every_gate_against_finite_differences(kinds):
    target = SpeedupTarget(latency_model(), 2.0)
    gates = spread_gates(kinds, std=1.0)
    target.expected(gates.keep_probabilities()).backward()
    for index in range(0, gates.loga.numel(), 5):
        values = []
        for step in (2e-2, -2e-2):
            with torch.no_grad():
                gates.loga[index] += step
                values.append(target.expected(gates.keep_probabilities()).item())
                gates.loga[index] -= step
        slope = (values[0] - values[1]) / 4e-2
        assert gates.loga.grad[index].item() == pytest.approx(slope, abs=2e-4, rel=0.05)


def test_more_units_are_never_faster():
    model = latency_model()
    for name, size in (("head", SHAPE.n_heads), ("int", SHAPE.d_int)):
        times = [
            model({name: (torch.arange(size) < n).float().expand(SHAPE.n_layers, -1)}).item() for n in range(size + 1)
        ]
        assert all(a <= b for a, b in itertools.pairwise(times)) and times[0] < times[-1]


class TestTarget:
    def test_the_dense_model_has_speedup_one(self):
        target = SpeedupTarget(latency_model(), 4.0)
        assert target.goal == 0.75
        assert target.shown(target.expected({}).item()) == pytest.approx(1.0)
        assert target.shown(target.goal) == pytest.approx(4.0)

    @pytest.mark.parametrize("speedup", [0.0, 0.5, 1e6, float("nan")])
    def test_what_cannot_be_reached_is_refused_with_what_can(self, speedup):
        with pytest.raises(ValueError, match="at least 1 and below .* which removing every sublayer gives"):
            SpeedupTarget(latency_model(), speedup)

    def test_where_an_encoder_without_sublayers_takes_no_time_any_speedup_can_be_reached(self):
        nothing = LatencyModel(
            SHAPE,
            *(surface([0.0, n], [1.0, float(SHAPE.d_hidden)], [[0.0] * 2, [1.0] * 2]) for n in (4.0, 8.0)),
            curve([1.0, float(SHAPE.d_hidden)], [0.0, 0.0]),
            curve([0.0, 100.0], [0.0, 100.0]),
        )
        assert SpeedupTarget(nothing, 1e6).most == math.inf

    def test_it_is_moved_without_being_read(self):
        target = SpeedupTarget(latency_model(), 4.0)
        moved = target.to("meta")  # a device that holds no values
        assert moved.expected({}).is_meta and moved.latency.fixed.knots.is_meta
        assert (moved.dense_ms, moved.most, moved.goal) == (target.dense_ms, target.most, target.goal)
        assert not target.latency.fixed.knots.is_meta

    @pytest.mark.parametrize("speedup", [1.5, 3.0, 8.0, 12.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_masks_are_fitted_to_it(self, seed, speedup):
        target = SpeedupTarget(latency_model(BERT_SMALL), speedup)
        gates = learned_gates(seed)
        constraint = Constraint(target, "kept")
        masks, _ = constraint.masks(gates, fitted=True)
        kept = target.latency.of_structure(masks.structure(BERT_SMALL))
        assert target.dense_ms / kept == pytest.approx(speedup, rel=0.01)
        assert constraint.values(gates, masks)["kept_speedup"] == pytest.approx(speedup, rel=0.01)
        assert fit(gates, target) == fit(gates, target)

    def test_the_lagrangian_sees_the_latency_of_the_masks(self):
        gates = learned_gates(0)
        constraint = Constraint(SpeedupTarget(latency_model(BERT_SMALL), 3.0), "kept")
        value, facts = constraint.reduction(gates)
        kept = constraint.target.latency.of_structure(gates.deterministic().structure(BERT_SMALL))
        assert value.item() == pytest.approx(1 - kept / constraint.target.dense_ms, abs=1e-5)
        assert list(facts) == ["expected_speedup", "kept_speedup"]
        assert constraint.aim(0.75) == {"target_speedup": pytest.approx(4.0)}
