import math
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofi.distill import STRATEGIES, UNMATCHED, teacher_layers

IN_ORDER = ("nearest_in_order", "random_in_order", "random_window")

depths = st.integers(1, 30)


@st.composite
def matchings(draw):
    """A strategy by name, its sizes, errors without ties and live layers."""
    n_teacher, n_student, count = draw(depths), draw(depths), draw(st.integers(1, 6))
    name = draw(st.sampled_from(list(STRATEGIES)))
    rows = min(count, n_teacher)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mse = torch.rand(rows, n_student, generator=generator, dtype=torch.float64)
    live = torch.tensor(draw(st.lists(st.booleans(), min_size=n_student, max_size=n_student)))
    return name, STRATEGIES[name](n_teacher, n_student, count), mse, live


def plain_align(name: str, strategy, mse: list[list[float]], live: list[bool]) -> list[int]:
    """The rules with lists and loops."""
    alive = [j for j, is_live in enumerate(live) if is_live]
    if name == "fixed":
        scale = Fraction(strategy.n_student_layers, strategy.n_teacher_layers)
        depth = [math.ceil((t + 1) * scale) - 1 for t in strategy.spaced]
        return [j if j in alive else UNMATCHED for j in depth]
    if not alive:
        return [UNMATCHED] * len(mse)
    if name == "nearest":
        return [min(alive, key=row.__getitem__) for row in mse]
    previous, alignment = len(live), []
    for row in reversed(mse):
        previous = min((j for j in alive if j < previous), key=row.__getitem__, default=previous)
        alignment.insert(0, previous)
    return alignment


@settings(deadline=None)
@given(matchings())
def test_alignment_is_that_of_the_plain_rule(matching):
    name, strategy, mse, live = matching
    alignment = strategy.align(mse, live)
    assert alignment.dtype == torch.int64
    assert alignment.tolist() == plain_align(name, strategy, mse.tolist(), live.tolist())


@settings(deadline=None)
@given(matchings())
def test_only_live_layers_are_matched_and_order_holds(matching):
    name, strategy, mse, live = matching
    alignment = strategy.align(mse, live).tolist()
    matched = [j for j in alignment if j != UNMATCHED]
    assert all(live[j] for j in matched)
    if name in IN_ORDER:
        assert matched == sorted(matched)
    if name != "fixed":
        assert len(matched) == (len(alignment) if live.any() else 0)


def test_in_order_matches_strictly_downwards_and_reuses_the_last_match():
    strategy = STRATEGIES["nearest_in_order"](12, 5)
    mse = torch.tensor(
        [
            [0.1, 9.0, 9.0, 9.0, 9.0],
            [9.0, 0.1, 0.2, 9.0, 9.0],
            [9.0, 0.1, 9.0, 9.0, 9.0],
            [9.0, 9.0, 9.0, 0.1, 0.0],
        ]
    )
    assert strategy.align(mse, torch.tensor([True] * 5)).tolist() == [0, 0, 1, 4]
    assert strategy.align(mse, torch.tensor([True, True, True, True, False])).tolist() == [0, 0, 1, 3]
    # dead layers are known by their index: 0 and 4 are dead, so the lowest match is 1, used three times
    assert strategy.align(mse, torch.tensor([False, True, True, True, False])).tolist() == [1, 1, 1, 3]


def test_nearest_keeps_no_order():
    mse = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    strategy = STRATEGIES["nearest"](6, 3, count=2)
    assert strategy.align(mse, torch.tensor([True] * 3)).tolist() == [2, 0]
    assert strategy.align(mse, torch.tensor([False, True, False])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("n_teacher", "n_student", "expected"),
    [(12, 12, [2, 5, 8, 11]), (12, 6, [1, 2, 4, 5]), (6, 12, [3, 5, 9, 11]), (3, 3, [0, 1, 2]), (12, 1, [0] * 4)],
)
def test_fixed_takes_the_layer_at_the_same_depth(n_teacher, n_student, expected):
    strategy = STRATEGIES["fixed"](n_teacher, n_student)
    mse = torch.zeros(min(4, n_teacher), n_student)
    live = torch.ones(n_student, dtype=torch.bool)
    assert strategy.align(mse, live).tolist() == expected
    live[expected[-1]] = False
    assert strategy.align(mse, live)[-1] == UNMATCHED


@pytest.mark.parametrize("name", ["nearest", *IN_ORDER])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_overflowed_error_does_not_wake_a_dead_layer(name, value):
    strategy = STRATEGIES[name](12, 4)
    alignment = strategy.align(torch.full((4, 4), value), torch.tensor([False, False, True, False]))
    assert alignment.tolist() == [2] * 4


@pytest.mark.parametrize(
    ("n_layers", "count", "expected"),
    [
        (12, 4, (2, 5, 8, 11)),
        (24, 4, (5, 11, 17, 23)),
        (6, 4, (1, 2, 4, 5)),
        (4, 4, (0, 1, 2, 3)),
        (3, 4, (0, 1, 2)),
        (1, 4, (0,)),
        (12, 1, (11,)),
    ],
)
def test_teacher_layers(n_layers, count, expected):
    assert teacher_layers(n_layers, count) == expected


@given(n_layers=st.integers(1, 100), count=st.integers(1, 20))
def test_teacher_layers_are_evenly_spaced_up_to_the_last(n_layers, count):
    layers = teacher_layers(n_layers, count)
    assert len(layers) == min(count, n_layers)
    assert layers[-1] == n_layers - 1
    gaps = {b - a for a, b in zip((-1, *layers), layers, strict=False)}
    assert max(gaps) - min(gaps) <= 1
    assert min(gaps) >= 1


@settings(deadline=None)
@given(st.sampled_from(list(STRATEGIES)), depths, st.integers(1, 6), st.integers(0, 2**31))
def test_picks_are_distinct_ascending_and_decided_by_the_generator(name, n_teacher, count, seed):
    strategy = STRATEGIES[name](n_teacher, 3, count)
    picked = strategy.pick_teacher_layers(random.Random(seed))
    assert list(picked) == sorted(set(picked))
    assert len(picked) == min(count, n_teacher)
    assert strategy.spaced[0] <= picked[0] <= picked[-1] < n_teacher
    assert picked == strategy.pick_teacher_layers(random.Random(seed))


@pytest.mark.parametrize("n_teacher", [5, 12, 13])
def test_window_picks_one_layer_of_each_window(n_teacher):
    strategy = STRATEGIES["random_window"](n_teacher, 3)
    rng = random.Random(0)
    seen = [set(column) for column in zip(*(strategy.pick_teacher_layers(rng) for _ in range(200)), strict=True)]
    bounds = [-1, *strategy.spaced]
    windows = [set(range(low + 1, high + 1)) for low, high in zip(bounds, bounds[1:], strict=False)]
    assert seen == [{strategy.spaced[0]}, *windows[1:]]


def test_random_picks_reach_every_layer_from_the_first_spaced_one():
    strategy = STRATEGIES["random_in_order"](12, 3)
    rng = random.Random(0)
    assert {layer for _ in range(200) for layer in strategy.pick_teacher_layers(rng)} == set(range(2, 12))


@pytest.mark.parametrize("name", ["fixed", "nearest", "nearest_in_order"])
def test_other_strategies_draw_nothing(name):
    rng = random.Random(0)
    before = rng.getstate()
    assert STRATEGIES[name](12, 12).pick_teacher_layers(rng) == (2, 5, 8, 11)
    assert rng.getstate() == before


@pytest.mark.parametrize(
    ("sizes", "name"), [((0, 3, 4), "n_layers"), ((3, 0, 4), "n_student_layers"), ((3, 3, 0), "count")]
)
def test_wrong_sizes_name_the_argument(sizes, name):
    with pytest.raises(ValueError, match=name):
        STRATEGIES["nearest"](*sizes)
