import functools
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cofi.masks import (
    RAMPS,
    Gates,
    Lagrangian,
    ModelShape,
    SparsityRamp,
    SparsityStairs,
    ascent_optimizer,
    expected_sparsity,
)

SHAPE = ModelShape(n_layers=2, n_heads=4, head_dim=4, d_hidden=16, d_int=32)


@pytest.mark.parametrize(("s", "t"), [(0.2, 0.6), (0.7, 0.3), (0.5, 0.5)], ids=["below", "above", "met"])
def test_penalty_and_its_gradients(s, t):
    lagrangian = Lagrangian()
    with torch.no_grad():
        lagrangian.lambda_1.fill_(0.3)
        lagrangian.lambda_2.fill_(-0.7)
    sparsity = torch.tensor(s, requires_grad=True)
    penalty = lagrangian(sparsity, t)
    penalty.backward()
    close = functools.partial(pytest.approx, abs=1e-6)  # s and t are rounded to fp32
    assert penalty.item() == close(0.3 * (s - t) - 0.7 * (s - t) ** 2)
    assert sparsity.grad.item() == close(0.3 - 1.4 * (s - t))
    assert lagrangian.lambda_1.grad.item() == close(s - t)
    assert lagrangian.lambda_2.grad.item() == close((s - t) ** 2)


def test_target_may_live_on_the_device():
    lagrangian = Lagrangian()
    with torch.no_grad():
        lagrangian.lambda_1.fill_(2.0)
    assert lagrangian(torch.tensor(0.5), torch.tensor(0.75)).item() == pytest.approx(-0.5)


@pytest.mark.parametrize(("s", "sign"), [(0.2, -1), (0.9, 1)], ids=["too dense", "too sparse"])
def test_ascent_raises_the_penalty(s, sign):
    lagrangian = Lagrangian()
    optimizer = ascent_optimizer(lagrangian, lr=0.01)
    assert lagrangian.lambda_1.item() == lagrangian.lambda_2.item() == 0
    penalties = []
    for _ in range(5):
        optimizer.zero_grad()
        penalty = lagrangian(torch.tensor(s), 0.6)
        penalty.backward()
        optimizer.step()
        penalties.append(penalty.item())
    assert penalties == sorted(penalties)
    assert penalties[-1] > penalties[0]
    assert lagrangian.lambda_1.item() * sign > 0
    assert lagrangian.lambda_2.item() > 0  # its gradient is a square


def test_multipliers_do_not_decay_once_the_target_is_met():
    lagrangian = Lagrangian()
    with torch.no_grad():
        lagrangian.lambda_1.fill_(-5.0)
    optimizer = ascent_optimizer(lagrangian, lr=0.1)
    lagrangian(torch.tensor(0.6), torch.tensor(0.6)).backward()
    optimizer.step()
    assert lagrangian.lambda_1.item() == -5.0


@pytest.mark.parametrize("kinds", ["all", "int", "head,mha", "hidden", "mha,ffn"])
def test_gates_reach_the_target_sparsity(kinds):
    gates, lagrangian, target = Gates(SHAPE, kinds, seed=0), Lagrangian(), 0.3
    ramp = SparsityRamp(target, warmup_steps=100)
    descent = torch.optim.AdamW(gates.parameters(), lr=0.1, weight_decay=0.0)
    ascent = ascent_optimizer(lagrangian, lr=0.1)
    late = []
    for step in range(600):
        descent.zero_grad()
        ascent.zero_grad()
        s = expected_sparsity(gates)
        lagrangian(s, ramp(step)).backward()
        descent.step()
        ascent.step()
        gates.clamp_()
        late.append(s.item())
    assert sum(late[-100:]) / 100 == pytest.approx(target, abs=0.03)


@pytest.mark.parametrize(
    ("shape", "quarter", "middle"),
    [("linear", 0.45, 0.6), ("cubic", 0.9 - 0.6 * 0.75**3, 0.9 - 0.6 * 0.5**3)],
    ids=RAMPS,
)
def test_ramp_has_its_shape_between_its_ends(shape, quarter, middle):
    ramp = SparsityRamp(0.9, start=0.3, warmup_steps=100, shape=shape)
    assert ramp(0) == 0.3
    assert [ramp(25), ramp(50)] == pytest.approx([quarter, middle])
    assert ramp(100) == ramp(101) == ramp(10**9) == 0.9


def test_a_ramp_is_linear_unless_told():
    assert SparsityRamp(0.9, warmup_steps=100) == SparsityRamp(0.9, warmup_steps=100, shape="linear")


@pytest.mark.parametrize("shape", RAMPS)
def test_no_warmup_means_the_target_at_once(shape):
    assert SparsityRamp(0.6, shape=shape)(0) == 0.6


@given(
    shape=st.sampled_from(RAMPS),
    target=st.floats(0, 0.999),
    share=st.floats(0, 1),
    warmup=st.integers(0, 1000),
    step=st.integers(0, 2000),
)
def test_ramp_never_falls_nor_leaves_its_range(shape, target, share, warmup, step):
    ramp = SparsityRamp(target, start=target * share, warmup_steps=warmup, shape=shape)
    assert target * share - 1e-12 <= ramp(step) <= ramp(step + 1) + 1e-12 <= target + 2e-12


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"target": 1.0}, "target"),
        ({"target": -0.1}, "target"),
        ({"target": float("nan")}, "target"),
        ({"target": 0.5, "start": 0.6}, "start"),
        ({"target": 0.5, "start": -0.1}, "start"),
        ({"target": 0.5, "warmup_steps": -1}, "warmup_steps"),
        ({"target": 0.5, "shape": "square"}, "shape must be one of linear, cubic, got 'square'"),
    ],
)
def test_a_wrong_ramp_names_the_argument(arguments, name):
    with pytest.raises(ValueError, match=name):
        SparsityRamp(**arguments)


def test_a_step_before_the_start_is_an_error():
    with pytest.raises(ValueError, match="step"):
        SparsityRamp(0.5)(-1)


def test_stairs_keep_the_same_share_at_every_leap():
    stairs = SparsityStairs(0.95, warmup_steps=9, rounds=4)
    assert list(stairs.leaps) == [0, 3, 6, 9]
    left = [1.0] + [1 - stairs(step) for step in (0, 3, 6, 9)]
    assert [b / a for a, b in pairwise(left)] == pytest.approx([0.05**0.25] * 4)
    assert (stairs(2), stairs(8), stairs(100)) == (stairs(0), stairs(6), 0.95)


@pytest.mark.parametrize(("warmup", "rounds"), [(9, 1), (0, 1), (0, 4)])
def test_one_leap_or_no_warmup_is_the_target_at_once(warmup, rounds):
    stairs = SparsityStairs(0.8, warmup_steps=warmup, rounds=rounds)
    assert stairs.leaps == {0: 0.8}
    assert stairs(0) == stairs(50) == 0.8


@pytest.mark.parametrize(("warmup", "rounds"), [(1, 5), (3, 5), (7, 4), (100, 3)])
def test_stairs_end_on_the_target_however_few_steps_there_are(warmup, rounds):
    stairs = SparsityStairs(0.9, warmup_steps=warmup, rounds=rounds)
    shares = list(stairs.leaps.values())
    assert shares == sorted(shares) and min(stairs.leaps) == 0
    assert stairs(warmup) == 0.9


def test_stairs_without_a_round_are_an_error():
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        SparsityStairs(0.9, rounds=0)
