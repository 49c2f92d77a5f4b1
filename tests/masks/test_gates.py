import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cofi.masks import INIT_MEANS, MASK_KINDS, Gates, Lagrangian, ModelShape, expected_sparsity
from cofi.masks.gates import MAX_LOGA

from .cases import SHAPE, SUBSETS, spread_gates

TEMPERATURE = 2 / 3


def uniform(gates: Gates, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(gates.loga.shape, generator=generator).clamp(1e-6, 1 - 1e-6)


def plain_sample(loga: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    s = torch.sigmoid((u.log() - (-u).log1p() + loga) / TEMPERATURE)
    return (s * 1.2 - 0.1).clamp(0, 1)


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_every_subset_samples_rounds_and_counts(kinds):
    gates = spread_gates(kinds)
    for values in (gates.views(), gates.keep_probabilities()):
        assert {name: tuple(v.shape) for name, v in values.items()} == {k: MASK_KINDS[k].units(SHAPE) for k in kinds}
    for masks in (gates.sample(uniform(gates)), gates.deterministic()):
        assert tuple(masks.by_kind()) == kinds
        assert masks.structure(SHAPE).hidden <= SHAPE.d_hidden
    assert sum(v.numel() for v in gates.views().values()) == gates.loga.numel()
    assert gates.offsets[0] == 0
    assert gates.offsets[-1] == gates.loga.numel()
    assert gates.offsets.dtype == torch.int32


def test_vectors_are_layers_of_heads_and_dims_all_hidden_dims_and_single_sublayers():
    sizes = spread_gates().offsets.diff().tolist()
    assert sizes == [3, 3] + [7, 7] + [6] + [1, 1] + [1, 1]


def test_views_write_through():
    gates = spread_gates()
    with torch.no_grad():
        gates.views()["hidden"].fill_(-3.0)
    start = gates.offsets[4]
    assert (gates.loga[start : start + 6] == -3).all()
    assert gates.loga.ne(-3).sum() == gates.loga.numel() - 6


def test_sample_and_its_gradient_are_those_of_the_plain_formula():
    gates = spread_gates()
    u = uniform(gates)
    z = torch.cat([z.flatten() for z in gates.sample(u).by_kind().values()])
    upstream = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    (z * upstream).sum().backward()
    loga = gates.loga.detach().double().requires_grad_()
    expected = plain_sample(loga, u.double())
    (expected * upstream).sum().backward()
    torch.testing.assert_close(z.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gates.loga.grad.double(), loga.grad, rtol=1e-4, atol=1e-6)
    assert (gates.loga.grad[(z == 0) | (z == 1)] == 0).all()


def test_keep_probability_is_the_chance_of_a_sample_above_zero():
    gates = spread_gates()
    p = torch.cat([p.flatten() for p in gates.keep_probabilities().values()])
    expected = torch.sigmoid(gates.loga - TEMPERATURE * math.log(0.1 / 1.1))
    torch.testing.assert_close(p, expected)
    u = torch.linspace(0, 1, 2003)[1:-1].unsqueeze(1)
    observed = (plain_sample(gates.loga.detach(), u) > 0).float().mean(0)
    torch.testing.assert_close(p.detach(), observed, rtol=0, atol=2e-3)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), std=st.floats(0.1, 6.0))
def test_deterministic_masks_cut_the_expected_number_of_lowest_gates(seed, std):
    gates = spread_gates(seed=seed, std=std)
    gates.clamp_()
    z = torch.cat([z.flatten() for z in gates.deterministic().by_kind().values()])
    p = torch.cat([p.flatten() for p in gates.keep_probabilities().values()]).detach()
    for start, end in itertools.pairwise(gates.offsets.tolist()):
        expected_zeros = end - start - float(p[start:end].double().sum())
        zeros = int((z[start:end] == 0).sum())
        assert abs(zeros - expected_zeros) <= 0.5 + 1e-4
        order = gates.loga[start:end].argsort(stable=True)
        assert (z[start:end][order][:zeros] == 0).all()
    alive = z != 0
    soft = torch.sigmoid(gates.loga.detach() / TEMPERATURE * 0.8)
    torch.testing.assert_close(z[alive], soft[alive])
    assert not gates.deterministic().z_head.requires_grad


def test_noise_state_repeats_a_sample_and_a_new_offset_changes_it():
    gates = spread_gates()
    samples = [gates.sample(torch.tensor([5, offset])).by_kind() for offset in (0, 0, 1)]
    for name, z in samples[0].items():
        assert torch.equal(z, samples[1][name])
    assert any(not torch.equal(z, samples[2][name]) for name, z in samples[0].items())


def test_seed_alone_decides_the_start():
    torch.manual_seed(1)
    first = spread_gates(seed=3).loga
    state = torch.get_rng_state()
    second = spread_gates(seed=3).loga
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, second)
    assert not torch.equal(first, spread_gates(seed=4).loga)


def means_of(gates: Gates) -> dict[str, float]:
    return {name: round(v.detach().mean().item()) for name, v in gates.views().items()}


def test_official_start_and_others():
    official = {"head": 10, "int": 0, "hidden": 10, "mha": 10, "ffn": 10}
    assert means_of(Gates(SHAPE, "all", seed=0)) == official
    assert means_of(Gates(SHAPE, "all", init_means="official", seed=0)) == official
    some = Gates(SHAPE, "all", init_means={"int": 4.0, "mha": -2.0}, seed=0)
    assert means_of(some) == official | {"int": 4, "mha": -2}
    for name, means in INIT_MEANS.items():
        assert means_of(Gates(SHAPE, "all", init_means=name, seed=0)) == {kind: round(m) for kind, m in means.items()}


def test_wrong_means_are_errors_that_list_the_valid_ones():
    with pytest.raises(ValueError, match="official.*'oficial'"):
        Gates(SHAPE, "all", init_means="oficial", seed=0)
    with pytest.raises(ValueError, match="head, int, hidden, mha, ffn.*'heads'"):
        Gates(SHAPE, "all", init_means={"heads": 1.0}, seed=0)


def test_clamp_holds_loga_within_a_hundred_to_one():
    gates = spread_gates(std=20.0)
    gates.clamp_()
    assert gates.loga.detach().abs().max().item() == pytest.approx(MAX_LOGA)
    assert gates.loga.requires_grad


def test_a_step_reads_nothing_on_the_host():
    """Meta tensors have no values to read: any `.item()`, `.nonzero()` or boolean indexing would fail."""
    gates = spread_gates().to("meta")
    masks = gates.sample(torch.zeros(2, dtype=torch.int64, device="meta"))
    assert masks.live_layers(SHAPE.n_layers).shape == (SHAPE.n_layers,)
    assert gates.deterministic().z_head.shape == masks.z_head.shape
    lagrangian = Lagrangian().to("meta")
    lagrangian(expected_sparsity(gates), 0.5).backward()
    gates.clamp_()
    assert gates.loga.grad.shape == gates.loga.shape


def train(gates: Gates, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        masks = gates.sample(torch.tensor([7, step]))
        sum((z.square().sum() for z in masks.by_kind().values()), torch.zeros(())).backward()
        optimizer.step()
        gates.clamp_()


def test_resumed_gates_go_on_as_if_never_stopped(tmp_path):
    whole = spread_gates("int,ffn", seed=1)
    optimizer = torch.optim.AdamW(whole.parameters(), lr=0.1)
    train(whole, optimizer, range(5))
    torch.save({"gates": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    train(whole, optimizer, range(5, 9))

    resumed = spread_gates("int,ffn", seed=2)
    again = torch.optim.AdamW(resumed.parameters(), lr=0.1)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(saved["gates"])
    again.load_state_dict(saved["optimizer"])
    train(resumed, again, range(5, 9))
    assert torch.equal(whole.loga, resumed.loga)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda: Gates(SHAPE, "mha", seed=0), "kinds"),  # as many gates as "ffn", another meaning
        (lambda: Gates(SHAPE, "ffn", temperature=0.5, seed=0), "temperature"),
        (lambda: Gates(SHAPE, "ffn", magic_scale=0.7, seed=0), "magic_scale"),
        (lambda: Gates(ModelShape(2, 3, 2, 6, 9), "ffn", seed=0), "shape"),
    ],
    ids=["kinds", "temperature", "magic_scale", "shape"],
)
def test_state_of_other_gates_is_refused(other, name):
    with pytest.raises(ValueError, match=f"saved gates must have {name}"):
        Gates(SHAPE, "ffn", seed=0).load_state_dict(other().state_dict())
