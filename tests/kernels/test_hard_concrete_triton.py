"""The Triton kernels: in the interpreter (or on a GPU) against fp64, and compiled for each architecture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import counter_uniform
from cofi_kernels.hard_concrete import reference
from cofi_kernels.testing import assert_close_to_fp64
from tests.kernels import aot

pytest.importorskip("triton")
from cofi_kernels.hard_concrete import triton_kernels  # noqa: E402
from tests.kernels import launches  # noqa: E402

TEMPERATURE = reference.TEMPERATURE
SHAPES = [(0,), (), (1,), (12, 12), (1023,), (25, 41)]


def gate_inputs(shape: tuple[int, ...], device: str) -> tuple[Tensor, Tensor]:
    return torch.randn(shape, device=device) * 3, torch.rand(shape, device=device).clamp(1e-6, 1 - 1e-6)


@pytest.mark.parametrize("from_state", [False, True], ids=["uniform", "state"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sample_and_its_gradient_match_fp64(device, shape, from_state):
    loga, u = gate_inputs(shape, device)
    state = torch.tensor([2**33 + 5, 2**34 + 6], device=device)
    noise, u = (state, counter_uniform(state, shape)) if from_state else (u, u)
    dz = torch.randn_like(loga)
    want = reference.hard_concrete(loga.double(), u.double(), TEMPERATURE)
    z = triton_kernels.hard_concrete(loga, noise, TEMPERATURE)
    assert_close_to_fp64(z, want, name="z")
    assert torch.equal(z == 0, want == 0) and torch.equal(z == 1, want == 1)
    dloga = triton_kernels.hard_concrete_backward(dz, loga, noise, TEMPERATURE)
    want = reference.hard_concrete_backward(dz.double(), loga.double(), u.double(), TEMPERATURE)
    assert_close_to_fp64(dloga, want, name="dloga")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_keep_probability_and_its_gradient_match_fp64(device, shape):
    loga, dp = torch.randn(shape, device=device) * 6, torch.randn(shape, device=device)
    p = triton_kernels.keep_probability(loga, TEMPERATURE)
    assert_close_to_fp64(p, reference.keep_probability(loga.double(), TEMPERATURE), name="p")
    dloga = triton_kernels.keep_probability_backward(dp, loga, TEMPERATURE)
    want = reference.keep_probability_backward(dp.double(), loga.double(), TEMPERATURE)
    assert_close_to_fp64(dloga, want, name="dloga")


# vectors shorter and longer than every block, empty ones at the ends and in a row, more vectors than an offsets block
PARTITIONS = [[], [0], [1], [0, 5, 0, 0, 130, 1, 0], [1100, 3], [2] * 70, [0, 0]]


@pytest.mark.parametrize("sizes", PARTITIONS, ids=lambda sizes: f"{len(sizes)}-of-{sum(sizes)}")
@pytest.mark.parametrize("values", ["distinct", "tied"])
def test_deterministic_masks_and_live_lists_match_the_reference(device, sizes, values):
    loga = torch.randn(sum(sizes), device=device) * 3
    loga = loga if values == "distinct" else loga.round()  # -0 among them
    offsets = torch.tensor([0, *sizes], device=device).cumsum(0).to(torch.int32)
    z = triton_kernels.deterministic_masks(loga, offsets, TEMPERATURE, 0.8)
    want = reference.deterministic_masks(loga.double(), offsets, TEMPERATURE, 0.8)
    assert_close_to_fp64(z, want)
    assert torch.equal(z == 0, want == 0)
    for got, listed in zip(triton_kernels.live_indices(z, offsets), reference.live_indices(z, offsets), strict=True):
        assert torch.equal(got, listed)


@pytest.mark.parametrize(("size", "zeros"), [(1, 0), (2, 1), (3, 2), (5, 2), (7, 4)], ids=str)
def test_half_a_zero_is_rounded_to_even_and_ties_go_from_the_front(device, size, zeros):
    loga = torch.full((size,), reference.zero_point(TEMPERATURE), device=device)
    offsets = torch.tensor([0, size], dtype=torch.int32, device=device)
    z = triton_kernels.deterministic_masks(loga, offsets, TEMPERATURE, 0.8)
    assert (z != 0).tolist() == [False] * zeros + [True] * (size - zeros)


def test_nan_is_not_hidden(device):
    nan, zero = float("nan"), 0.0
    loga, u = torch.tensor([nan, zero, zero], device=device), torch.tensor([0.5, nan, 0.5], device=device)
    assert triton_kernels.hard_concrete(loga, u, TEMPERATURE).isnan().tolist() == [True, True, False]
    assert triton_kernels.keep_probability(loga, TEMPERATURE).isnan().tolist() == [True, False, False]
    offsets = torch.tensor([0, 3], dtype=torch.int32, device=device)
    z = triton_kernels.deterministic_masks(loga, offsets, TEMPERATURE, 0.8)
    assert z.isnan().tolist() == [True, False, False] and (z[1:] != 0).all()


def test_offsets_beyond_the_gates_touch_nothing_else(device):
    memory = torch.zeros(40, device=device)
    gates, offsets = memory[8:16], torch.tensor([-3, 4, 900], dtype=torch.int32, device=device)
    z = triton_kernels.deterministic_masks(gates, offsets, TEMPERATURE, 0.8)
    indices, counts = triton_kernels.live_indices(torch.ones(8, device=device), offsets)
    assert z.isfinite().all() and counts.tolist() == [4, 4] and indices.tolist() == [0, 1, 2, 3] * 2


KERNELS = ("keep_probability_fwd", "keep_probability_bwd", "hard_concrete_fwd", "hard_concrete_bwd", "num_zeros")
KERNELS += ("deterministic_masks", "live_indices")
# layers, heads, intermediate and hidden dims: of all kinds, in one tensor, which is 4 vectors a layer and one more
MODELS = {"BERT-base": (12, 12, 3072, 768), "MiniLM": (6, 12, 1536, 384), "BERT-large": (24, 16, 4096, 1024)}


def launch(n_layers: int, n_heads: int, n_int: int, n_hidden: int) -> None:
    """All that gates of a model launch: sampled from uniforms and from a state, a row of a step's, and pruned."""
    n_gates = n_hidden + n_layers * (n_heads + n_int + 2)
    loga, u, dz = (torch.empty(n_gates, device="meta") for _ in range(3))
    state = torch.empty(3, 2, dtype=torch.int64, device="meta")[1]
    offsets = torch.empty(4 * n_layers + 2, dtype=torch.int32, device="meta")
    for noise in (u, state):
        triton_kernels.hard_concrete(loga, noise, TEMPERATURE)
        triton_kernels.hard_concrete_backward(dz, loga, noise, TEMPERATURE)
    triton_kernels.keep_probability(loga, TEMPERATURE)
    triton_kernels.keep_probability_backward(dz, loga, TEMPERATURE)
    triton_kernels.live_indices(triton_kernels.deterministic_masks(loga, offsets, TEMPERATURE, 0.8), offsets)


def test_every_kernel_compiles_for_every_architecture_without_spills():
    cases = []
    for architecture in aot.ARCHITECTURES:
        cases += launches.distinct(launches.of_layers(architecture, ((m, "kernel") for m in MODELS.values()), launch))
    assert {case.kernel.split(":")[1] for case in cases} == {f"_{name}_kernel" for name in KERNELS}
    for report in aot.compile_cases(cases):
        aot.assert_fits(report)
