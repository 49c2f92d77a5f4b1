"""Hard-concrete gates: values and gradients against fp64, vectors against slow loops, registration, wrong arguments."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cofi_kernels import (
    counter_uniform,
    deterministic_masks,
    force_backend,
    hard_concrete,
    keep_probability,
    live_indices,
)
from cofi_kernels.hard_concrete import reference
from cofi_kernels.testing import assert_close_to_fp64

TEMPERATURE = reference.TEMPERATURE
# none, 0-dim, one, BERT-base heads, around a block of the kernels, a prime beyond a thread's share
SHAPES = [(0,), (), (1,), (12, 12), (511,), (3, 171), (1, 513), (40009,)]
NOISE = ["uniform", "state"]
# the loga at which P(z > 0) is 1/2 to the last bit, on every backend
HALF = float(torch.tensor(reference.zero_point(TEMPERATURE)))


def gate_inputs(shape: tuple[int, ...], kind: str, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """loga wide enough to saturate both clamps, the noise, and the same noise as u in fp64."""
    loga = torch.randn(shape, device=device) * 3
    if kind == "state":
        state = torch.tensor([2**33 + 5, 2**34 + 6], device=device)
        return loga, state, counter_uniform(state, shape).double()
    u = torch.rand(shape, device=device).clamp(1e-6, 1 - 1e-6)
    return loga, u, u.double()


def offsets_of(sizes: list[int], device: str = "cpu") -> Tensor:
    return torch.tensor([0, *sizes], device=device).cumsum(0).to(torch.int32)


def assert_samples_right(loga: Tensor, noise: Tensor, u: Tensor) -> None:
    want = reference.hard_concrete(loga.double(), u, TEMPERATURE)
    z = hard_concrete(loga, noise)
    assert z.is_contiguous() and z.shape == loga.shape
    assert_close_to_fp64(z, want, name="z")
    assert torch.equal(z == 0, want == 0) and torch.equal(z == 1, want == 1)


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_and_its_gradient_match_fp64(device, backend, shape, kind):
    loga, noise, u = gate_inputs(shape, kind, device)
    assert_samples_right(loga, noise, u)
    dz = torch.randn_like(loga)
    (dloga,) = torch.autograd.grad(hard_concrete(loga.requires_grad_(), noise), loga, dz)
    want = reference.hard_concrete_backward(dz.double(), loga.detach().double(), u, TEMPERATURE)
    assert_close_to_fp64(dloga, want, name="dloga")


@pytest.mark.parametrize("kind", NOISE)
def test_every_native_version_matches_fp64(isa, kind):
    loga, noise, u = gate_inputs((40009,), kind)
    assert_samples_right(loga, noise, u)
    dz = torch.randn_like(loga)
    (dloga,) = torch.autograd.grad(hard_concrete(loga.requires_grad_(), noise), loga, dz)
    want = reference.hard_concrete_backward(dz.double(), loga.detach().double(), u, TEMPERATURE)
    assert_close_to_fp64(dloga, want, name="dloga")
    p = keep_probability(loga)
    (dloga,) = torch.autograd.grad(p, loga, dz)
    assert_close_to_fp64(p, reference.keep_probability(loga.double(), TEMPERATURE), name="p")
    want = reference.keep_probability_backward(dz.double(), loga.detach().double(), TEMPERATURE)
    assert_close_to_fp64(dloga, want, name="dloga of p")


def test_native_sigmoid_keeps_its_digits_in_both_tails(isa):
    loga = torch.linspace(-30, 30, 2001)
    got, want = keep_probability(loga).double(), reference.keep_probability(loga.double(), TEMPERATURE)
    assert ((got - want).abs() / want).max() < 1e-6


def test_handwritten_gradients_are_those_of_autograd():
    loga, u, _ = gate_inputs((400,), "uniform")
    loga, u, d = loga.double().requires_grad_(), u.double(), torch.randn(400, dtype=torch.float64)
    (want,) = torch.autograd.grad(reference.hard_concrete(loga, u, 0.5), loga, d)
    torch.testing.assert_close(reference.hard_concrete_backward(d, loga.detach(), u, 0.5), want)
    wide = (loga * 5).detach().requires_grad_()  # into the clamp on both sides
    (want,) = torch.autograd.grad(reference.keep_probability(wide, 0.5), wide, d)
    assert (want == 0).any()
    torch.testing.assert_close(reference.keep_probability_backward(d, wide.detach(), 0.5), want)


def test_sample_is_the_equation_of_the_paper(device, backend):
    loga, u, _ = gate_inputs((5,), "uniform", device)
    for i, z in enumerate(hard_concrete(loga, u, temperature=0.5).tolist()):
        a, noise = loga[i].item(), u[i].item()
        s = 1 / (1 + math.exp(-(math.log(noise) - math.log(1 - noise) + a) / 0.5))
        assert z == pytest.approx(min(max(s * 1.2 - 0.1, 0), 1), abs=1e-5)


def test_keep_probability_is_how_often_samples_are_not_zero(device):
    loga = torch.tensor([-4.0, -1.0, 0.0, 2.0], device=device)[:, None].expand(4, 100_000)
    live = (hard_concrete(loga, torch.tensor([1, 2], device=device)) > 0).double().mean(1)
    assert (live - keep_probability(loga[:, 0]).double()).abs().max() < 5 * 0.5 / math.sqrt(100_000)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_keep_probability_and_its_gradient_match_fp64(device, backend, shape):
    loga = (torch.randn(shape, device=device) * 6).requires_grad_()  # beyond the clamp at 1e-6
    p, dp = keep_probability(loga), torch.randn(shape, device=device)
    assert p.is_contiguous() and p.shape == shape
    (dloga,) = torch.autograd.grad(p, loga, dp)
    loga64 = loga.detach().double()
    assert_close_to_fp64(p, reference.keep_probability(loga64, TEMPERATURE), name="p")
    want = reference.keep_probability_backward(dp.double(), loga64, TEMPERATURE)
    assert_close_to_fp64(dloga, want, name="dloga")


def test_keep_probability_stays_within_epsilon_and_has_no_gradient_there(device, backend):
    loga = torch.tensor([-40.0, 40.0], device=device, requires_grad=True)
    p = keep_probability(loga)
    assert torch.equal(p, torch.tensor([1e-6, 1 - 1e-6], device=device))
    assert torch.equal(*torch.autograd.grad(p.sum(), loga), torch.zeros(2, device=device))


def test_nan_is_not_hidden(device, backend):
    loga, u = (
        torch.tensor([float("nan"), 0.0, 0.0], device=device),
        torch.tensor([0.5, float("nan"), 0.5], device=device),
    )
    assert hard_concrete(loga, u).isnan().tolist() == [True, True, False]
    assert keep_probability(loga).isnan().tolist() == [True, False, False]
    z = deterministic_masks(loga, offsets_of([3], device))
    assert z.isnan().tolist() == [True, False, False] and (z[1:] != 0).all()


def test_views_are_read_row_major(device, backend):
    loga, u, _ = gate_inputs((7, 5), "uniform", device)
    state, d = torch.tensor([1, 2], device=device), torch.randn(5, 7, device=device)
    for noise in (u.t(), state):
        want = hard_concrete(loga.t().contiguous(), noise.contiguous())
        assert torch.equal(hard_concrete(loga.t(), noise), want)
    leaf = loga.t().contiguous().requires_grad_()
    (want,) = torch.autograd.grad(hard_concrete(leaf, u.t()), leaf, d)
    view = loga.requires_grad_()
    (got,) = torch.autograd.grad(hard_concrete(view.t(), u.t()), view, d)
    assert torch.equal(got.t(), want)


def deterministic_by_loops(loga: list[float], sizes: list[int]) -> list[bool]:
    """Which gates stay, by Python's own round and sort."""
    stay = [True] * len(loga)
    first = 0
    for size in sizes:
        expected = math.fsum(keep_probability(torch.tensor(loga[first : first + size])).tolist())
        order = sorted(range(first, first + size), key=lambda i: (loga[i], i))
        for i in order[: round(size - expected)]:
            stay[i] = False
        first += size
    return stay


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=8),
    pool=st.lists(st.floats(-6, 6, width=32), min_size=1, max_size=12),
    data=st.data(),
)
def test_deterministic_masks_and_live_lists_of_any_partition(sizes, pool, data):
    n = sum(sizes)
    loga = data.draw(st.lists(st.sampled_from(pool), min_size=n, max_size=n))  # few values: many ties
    offsets = offsets_of(sizes)
    for name in ("auto", "reference"):
        with force_backend(name):
            z = deterministic_masks(torch.tensor(loga, dtype=torch.float32), offsets)
            indices, counts = live_indices(z, offsets)
        assert (z != 0).tolist() == deterministic_by_loops(loga, sizes)
        soft = torch.sigmoid(torch.tensor(loga, dtype=torch.float64) / TEMPERATURE * 0.8)
        assert_close_to_fp64(z, torch.where(z != 0, soft, 0.0))
        assert_live_lists(z, sizes, indices, counts)


def assert_live_lists(z: Tensor, sizes: list[int], indices: Tensor, counts: Tensor) -> None:
    assert indices.dtype == counts.dtype == torch.int32
    want = []
    for vector in z.split(sizes) if sizes else []:
        live = [i for i, value in enumerate(vector.tolist()) if value != 0]
        want.append(live + [-1] * (len(vector) - len(live)))
    assert indices.tolist() == [i for vector in want for i in vector]
    assert counts.tolist() == [sum(i >= 0 for i in vector) for vector in want]


@pytest.mark.parametrize(("size", "zeros"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)], ids=str)
def test_half_a_zero_is_rounded_to_even_and_ties_go_from_the_front(device, backend, size, zeros):
    loga = torch.full((size,), HALF, device=device)
    assert (keep_probability(loga) == 0.5).all()
    z = deterministic_masks(loga, offsets_of([size], device))
    assert (z != 0).tolist() == [False] * zeros + [True] * (size - zeros)


def test_zeros_of_both_signs_tie(device, backend):
    loga = torch.tensor([0.0, -0.0, 0.0, -0.0], device=device)
    z = deterministic_masks(loga, offsets_of([4], device))  # P = 0.832: one zero of four
    assert (z != 0).tolist() == [False, True, True, True]


def test_deterministic_masks_of_the_sizes_of_bert(device, isa):
    sizes = [12] * 12 + [3072] * 12 + [768] + [1] * 24
    loga, offsets = torch.randn(sum(sizes), device=device) * 3, offsets_of(sizes, device)
    z = deterministic_masks(loga, offsets)
    want = reference.deterministic_masks(loga.double(), offsets, TEMPERATURE, 0.8)
    assert_close_to_fp64(z, want)
    assert torch.equal(z == 0, want == 0)
    for got, listed in zip(live_indices(z, offsets), reference.live_indices(z, offsets), strict=True):
        assert torch.equal(got, listed)


def test_all_live_and_all_dead_vectors_are_listed(device, backend):
    z = torch.tensor([0.0, 0.0, 1.0, 0.5, 0.0], device=device)
    indices, counts = live_indices(z, offsets_of([2, 0, 2, 1], device))
    assert indices.tolist() == [-1, -1, 0, 1, -1] and counts.tolist() == [0, 0, 2, 0]


def test_masks_of_evaluation_carry_no_gradient():
    loga = torch.randn(4, requires_grad=True)
    assert not deterministic_masks(loga, offsets_of([4])).requires_grad


def test_ops_compile_without_graph_break(device):
    loga, u, _ = gate_inputs((6,), "uniform", device)
    offsets, state = offsets_of([2, 4], device), torch.tensor([1, 2], device=device)

    def step(loga: Tensor, u: Tensor, state: Tensor, offsets: Tensor) -> tuple[Tensor, ...]:
        z = hard_concrete(loga, u) + hard_concrete(loga, state) + keep_probability(loga)
        return z, deterministic_masks(loga, offsets), *live_indices(z, offsets)

    arguments = (loga.requires_grad_(), u, state, offsets)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(*arguments), step(*arguments), strict=True):
        assert torch.equal(got, want)
    want = torch.autograd.grad(step(*arguments)[0].sum(), loga)
    assert torch.equal(*torch.autograd.grad(compiled(*arguments)[0].sum(), loga), *want)


def test_registered_ops_obey_the_contract_of_pytorch(device, backend):
    loga, u, _ = gate_inputs((4, 5), "uniform", device)
    offsets, state, ops = offsets_of([3, 0, 17], device), torch.tensor([1, 2], device=device), torch.ops.cofi_kernels
    leaf = loga.clone().requires_grad_()
    for arguments in ((leaf, u), (leaf, state), (leaf.t(), u.t())):
        torch.library.opcheck(ops.hard_concrete.default, (*arguments, TEMPERATURE))
        plain = [t.detach() for t in arguments]
        torch.library.opcheck(ops.hard_concrete_backward.default, (plain[0], *plain, TEMPERATURE))
    torch.library.opcheck(ops.keep_probability.default, (leaf.t(), TEMPERATURE))
    torch.library.opcheck(ops.keep_probability_backward.default, (loga.t(), loga.t(), TEMPERATURE))
    torch.library.opcheck(ops.deterministic_masks.default, (loga.flatten(), offsets, TEMPERATURE, 0.8))
    torch.library.opcheck(ops.live_indices.default, (loga.flatten(), offsets))


GATES, STATE = torch.zeros(3), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "loga must be one of .* got torch.float16", lambda: hard_concrete(GATES.half(), GATES)),
        (ValueError, r"one shape, got \(3,\) and \(2,\)", lambda: hard_concrete(GATES, GATES[:2])),
        (TypeError, "noise must be one of .* got torch.float64", lambda: hard_concrete(GATES, GATES.double())),
        (ValueError, r"noise must have shape \(2\)", lambda: hard_concrete(GATES, GATES.long())),
        (ValueError, "share a device", lambda: hard_concrete(GATES, GATES.to("meta"))),
        (ValueError, "temperature must be positive, got 0.0", lambda: hard_concrete(GATES, GATES, temperature=0.0)),
        (ValueError, "temperature .* got nan", lambda: keep_probability(GATES, temperature=float("nan"))),
        (TypeError, "offsets must be .* got torch.int64", lambda: deterministic_masks(GATES, STATE)),
        (ValueError, "loga must have shape", lambda: deterministic_masks(GATES[None], offsets_of([3]))),
        (ValueError, "magic_scale .* got 0", lambda: deterministic_masks(GATES, offsets_of([3]), magic_scale=0)),
        (ValueError, "at least the 0", lambda: live_indices(GATES, offsets_of([])[:0])),
        (TypeError, "z must be one of .* got torch.int64", lambda: live_indices(GATES.long(), offsets_of([3]))),
    ],
)
def test_wrong_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("bounds", [[0, 4], [0, 2], [1, 3], [0, 2, 1, 3], [0, -1, 3], [0]], ids=str)
@pytest.mark.parametrize("run", [deterministic_masks, live_indices], ids=lambda f: f.__name__)
def test_offsets_that_are_no_partition_are_refused_on_a_cpu(backend, run, bounds):
    with pytest.raises(ValueError, match="offsets must run from 0 to 3 without a step back"):
        run(torch.zeros(3), torch.tensor(bounds, dtype=torch.int32))
