import random

import pytest
import torch

from cofi.distill import STRATEGIES, UNMATCHED, LayerDistillation, matched_loss, repeated_layers

TOKENS = 5


def states(n_layers: int, width: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(n_layers, TOKENS, width, generator=generator))


def plain_loss(teacher, student, weight, bias, picked, alignment) -> torch.Tensor:
    pairs = [(teacher[t], student[j]) for t, j in zip(picked, alignment, strict=True) if j != UNMATCHED]
    return sum(((s @ weight.T + bias - t) ** 2).mean() for t, s in pairs)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("depths", "widths"), [((12, 12), (6, 6)), ((12, 4), (8, 6)), ((2, 3), (4, 6))], ids=["same", "shallower", "tiny"]
)
def test_loss_and_gradients_are_those_of_the_matched_pairs(strategy, depths, widths):
    teacher, student = states(depths[0], widths[0], 0), states(depths[1], widths[1], 1)
    student = [s.requires_grad_() for s in student]
    distiller = LayerDistillation(*widths, *depths, strategy=strategy)
    with torch.no_grad():
        distiller.transform.weight.add_(0.1 * torch.randn(widths, generator=torch.Generator().manual_seed(2)))
        distiller.transform.bias.add_(0.1)
    live = torch.tensor([j % 3 != 1 for j in range(depths[1])])
    loss, alignment = distiller(teacher, student, live, random.Random(4))
    loss.backward()
    assert alignment.shape == (min(4, depths[0]),)

    picked = distiller.strategy.pick_teacher_layers(random.Random(4))
    exact_student = [s.detach().double().requires_grad_() for s in student]
    weight, bias = (p.detach().double().requires_grad_() for p in distiller.transform.parameters())
    exact_teacher = [t.double() for t in teacher]
    expected = plain_loss(exact_teacher, exact_student, weight, bias, picked, alignment.tolist())
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(distiller.transform.weight.grad.double(), weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(distiller.transform.bias.grad.double(), bias.grad, rtol=1e-4, atol=1e-6)
    for got, want in zip(student, exact_student, strict=True):
        want_grad = torch.zeros_like(want) if want.grad is None else want.grad
        got_grad = torch.zeros_like(got) if got.grad is None else got.grad
        torch.testing.assert_close(got_grad.double(), want_grad, rtol=1e-4, atol=1e-6)


def test_the_transform_starts_as_the_identity_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    distiller = LayerDistillation(4, 4, 3, 3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(distiller.transform.weight, torch.eye(4))
    assert torch.equal(distiller.transform.bias, torch.zeros(4))
    same = states(3, 4, 0)
    loss, alignment = distiller(same, same, torch.ones(3, dtype=torch.bool), random.Random(0))
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert alignment.tolist() == [0, 1, 2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_layer_left_is_no_loss(strategy):
    distiller = LayerDistillation(4, 4, 12, 12, strategy)
    student = [s.requires_grad_() for s in states(12, 4, 1)]
    loss, alignment = distiller(states(12, 4, 0), student, torch.zeros(12, dtype=torch.bool), random.Random(0))
    loss.backward()
    assert loss.item() == 0
    assert alignment.tolist() == [UNMATCHED] * 4
    assert all(s.grad is None or not s.grad.any() for s in student)
    assert not distiller.transform.weight.grad.any()


def test_matched_loss_is_a_sum_and_leaves_out_the_unmatched():
    mse = torch.tensor([[1.0, 2.0], [4.0, 8.0], [16.0, float("nan")]], requires_grad=True)
    loss = matched_loss(mse, torch.tensor([1, UNMATCHED, 0]))
    loss.backward()
    assert loss.item() == 18
    assert mse.grad.tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_step_reads_nothing_on_the_host(strategy):
    """Meta tensors have no values to read: any `.item()`, `.nonzero()` or boolean indexing would fail."""
    distiller = LayerDistillation(4, 4, 12, 12, strategy).to("meta")
    teacher, student = ([s.to("meta") for s in states(12, 4, seed)] for seed in (0, 1))
    loss, alignment = distiller(teacher, student, torch.ones(12, dtype=torch.bool, device="meta"), random.Random(0))
    loss.backward()
    assert alignment.shape == (4,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_low_precision_are_taken_as_they_are(dtype):
    distiller = LayerDistillation(4, 4, 3, 3)
    student = [s.to(dtype).requires_grad_() for s in states(3, 4, 1)]
    loss, _ = distiller(states(3, 4, 0), student, torch.ones(3, dtype=torch.bool), random.Random(0))
    loss.backward()
    assert loss.dtype == distiller.transform.weight.grad.dtype == torch.float32
    assert any(s.grad is not None and s.grad.any() for s in student)


def test_a_seed_repeats_a_step_and_resumes():
    teacher, student = states(12, 4, 0), states(12, 4, 1)
    distiller = LayerDistillation(4, 4, 12, 12, "random_in_order")
    live = torch.ones(12, dtype=torch.bool)

    def run(rng: random.Random, steps: int) -> list[float]:
        return [distiller(teacher, student, live, rng)[0].item() for _ in range(steps)]

    rng = random.Random(5)
    whole = run(rng, 6)
    assert len(set(whole)) > 1
    rng = random.Random(5)
    first = run(rng, 2)
    resumed = random.Random()
    resumed.setstate(rng.getstate())
    assert first + run(resumed, 4) == whole


def test_repeated_states_may_be_named():
    first, third = states(2, 4, 1)
    teacher = states(3, 4, 0)
    live = torch.tensor([True, False, True])
    losses = []
    for source in (None, (0, 0, 2), repeated_layers(live)):
        distiller = LayerDistillation(4, 4, 3, 3)
        loss, _ = distiller(teacher, [first, first, third], live, random.Random(0), source=source)
        loss.backward()
        losses.append((loss.detach(), distiller.transform.weight.grad))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(losses[0], losses[2], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("live", "source"), [("1111", [0, 1, 2, 3]), ("1001", [0, 0, 0, 3]), ("0010", [0, 0, 2, 2]), ("0000", [0, 0, 0, 0])]
)
def test_dead_layers_repeat_the_last_live_one(live, source):
    assert repeated_layers(torch.tensor([layer == "1" for layer in live])).tolist() == source


def test_a_mapping_may_hold_only_the_layers_that_can_be_picked():
    teacher, student = states(12, 4, 0), states(12, 4, 1)
    distiller = LayerDistillation(4, 4, 12, 12)
    live = torch.ones(12, dtype=torch.bool)
    cached = {layer: teacher[layer] for layer in (2, 5, 8, 11)}
    assert torch.equal(
        distiller(teacher, student, live, random.Random(0))[0], distiller(cached, student, live, random.Random(0))[0]
    )


@pytest.mark.parametrize(
    ("teacher", "student", "live", "message"),
    [
        (4, 3, torch.ones(3, dtype=torch.bool), "teacher_states must hold 3 layers, got 4"),
        (3, 4, torch.ones(3, dtype=torch.bool), "student_states must hold 3 layers, got 4"),
        (3, 3, torch.ones(4, dtype=torch.bool), r"live must be bool of shape \(3,\)"),
        (3, 3, torch.ones(3), r"live must be bool of shape \(3,\)"),
    ],
)
def test_wrong_numbers_of_states_are_errors(teacher, student, live, message):
    distiller = LayerDistillation(4, 4, 3, 3)
    with pytest.raises(ValueError, match=message):
        distiller(states(teacher, 4, 0), states(student, 4, 1), live, random.Random(0))


def test_an_unknown_strategy_is_an_error_that_lists_the_valid_ones():
    with pytest.raises(ValueError, match="fixed, nearest, nearest_in_order, random_in_order, random_window.*'v4'"):
        LayerDistillation(4, 4, 3, 3, "v4")
