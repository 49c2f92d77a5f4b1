"""Gates, expected sparsity, Lagrangian and model size against the official L0Module."""

import pytest
import torch

from cofi.masks import (
    MASK_KINDS,
    Gates,
    Lagrangian,
    ModelShape,
    SparsityRamp,
    ascent_optimizer,
    expected_sparsity,
    kept_parameters,
    sparsity,
)
from cofi_kernels import expected_size
from cofi_kernels.hard_concrete import reference

from .goldens import OFFICIAL_KINDS, assert_gradient, load, tensor

SPARSITY_ERROR = 5e-6  # of fp32 sums over all units of the model, in another order than the official ones

FILES = [
    "l0_tiny2_init",
    "l0_tiny2_mid",
    "l0_tiny2_low",
    "l0_tiny2_startsparsity",
    "l0_tiny2_mid_nohidden",
    "l0_tiny12_mid",
    "l0_bertbase_init",
    "l0_bertbase_mid",
]


@pytest.fixture(params=FILES)
def golden(request, golden_dir):
    return load(golden_dir, request.param)


def shape_of(golden) -> ModelShape:
    hidden, heads = int(golden["const_hidden_size"]), int(golden["const_num_attention_heads"])
    layers, ints = int(golden["const_num_hidden_layers"]), int(golden["const_intermediate_size"])
    return ModelShape(n_layers=layers, n_heads=heads, head_dim=hidden // heads, d_hidden=hidden, d_int=ints)


def gates_of(golden) -> Gates:
    """Our gates holding the official parameters."""
    kinds = [kind for kind, official in OFFICIAL_KINDS.items() if f"loga_{official}" in golden]
    constants = {
        "temperature": float(golden["const_temperature"]),
        "magic_scale": float(golden["const_magical_number"]),
    }
    gates = Gates(shape_of(golden), kinds, **constants, seed=0)
    return fill(gates, golden, "loga_")


@torch.no_grad()
def fill(gates: Gates, golden, prefix: str) -> Gates:
    for kind, view in gates.views().items():
        view.copy_(tensor(golden[prefix + OFFICIAL_KINDS[kind]]))
    return gates


def lagrangian_of(golden) -> Lagrangian:
    lagrangian = Lagrangian()
    with torch.no_grad():
        lagrangian.lambda_1.copy_(tensor(golden["lambda_1"]))
        lagrangian.lambda_2.copy_(tensor(golden["lambda_2"]))
    return lagrangian


def ramp_of(golden) -> SparsityRamp:
    target, start = float(golden["const_target_sparsity"]), float(golden["const_start_sparsity"])
    return SparsityRamp(target, start, int(golden["const_lagrangian_warmup"]))


def flat(gates: Gates, golden, prefix: str, suffix: str = "") -> torch.Tensor:
    """An official array per kind as one flat vector in the order of the gates."""
    return torch.cat([tensor(golden[prefix + OFFICIAL_KINDS[kind] + suffix]).flatten() for kind in gates.kinds])


def assert_kinds(values, golden, prefix: str, suffix: str = "", **tolerance) -> None:
    for kind, value in values.items():
        expected = tensor(golden[prefix + OFFICIAL_KINDS[kind] + suffix]).to(value.dtype)
        torch.testing.assert_close(value.detach(), expected.view(value.shape), **tolerance)


def gradients(gates: Gates) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        holder = Gates(gates.shape, gates.kinds, seed=0)
        holder.loga.copy_(gates.loga.grad)
    return {kind: view.detach() for kind, view in holder.views().items()}


def test_constants(golden):
    shape = shape_of(golden)
    attention = shape.n_heads * shape.head_cost
    assert shape.head_cost == golden["const_params_per_head"]
    assert attention == pytest.approx(int(golden["const_params_per_head_layer"]), abs=shape.n_heads)
    assert shape.int_cost == golden["const_params_per_intermediate_dim"]
    assert shape.prunable_size == golden["const_prunable_model_size"] == golden["const_full_model_size"]
    assert shape.prunable_size == shape.n_layers * (attention + int(golden["const_params_per_mlp_layer"]))
    assert golden["const_limit_a"] == reference.GAMMA
    assert golden["const_limit_b"] == reference.ZETA
    assert golden["const_epsilon"] == reference.EPSILON
    assert golden["const_temperature"] == pytest.approx(reference.TEMPERATURE)
    assert golden["const_magical_number"] == reference.MAGIC_SCALE
    drop_rate = tensor(golden["const_droprate_init"])
    assert torch.logit(1 - drop_rate).item() == MASK_KINDS["int"].initial_mean


def test_keep_probabilities(golden):
    assert_kinds(gates_of(golden).keep_probabilities(), golden, "score_", rtol=1e-5, atol=1e-6)


def test_sampled_masks_and_their_gradients(golden):
    gates = gates_of(golden)
    masks = gates.sample(flat(gates, golden, "eps_")).by_kind()
    assert_kinds(masks, golden, "zs_train_", "_z", rtol=0, atol=1e-5)
    upstream = flat(gates, golden, "upstream_", "_z")
    (torch.cat([z.flatten() for z in masks.values()]) * upstream).sum().backward()
    for kind, gradient in gradients(gates).items():
        assert_gradient(gradient, golden[f"grad_sample_{OFFICIAL_KINDS[kind]}"], kind)


def test_deterministic_masks(golden):
    masks = gates_of(golden).deterministic().by_kind()
    assert_kinds(masks, golden, "zs_eval_", "_z", rtol=1e-5, atol=1e-6)
    for kind, z in masks.items():
        expected = tensor(golden[f"zs_eval_{OFFICIAL_KINDS[kind]}_z"]).view(z.shape)
        assert torch.equal(z == 0, expected == 0), kind


def test_expected_size(golden):
    gates = gates_of(golden)
    p, shape = gates.keep_probabilities(), gates.shape
    costs = {"head_cost": shape.head_cost, "int_cost": shape.int_cost, "n_hidden": shape.d_hidden}
    sizes = {"n_layers": shape.n_layers, "n_heads": shape.n_heads, "n_int": shape.d_int}
    without = expected_size(p["head"], p["int"], p["mha"], p["ffn"], **costs, **sizes).item()
    assert without == pytest.approx(float(golden["expected_size_no_hidden_formula"]), rel=1e-5)
    if "hidden" in p:
        size = expected_size(p["head"], p["int"], p["mha"], p["ffn"], p["hidden"], **costs, **sizes).item()
        assert size == pytest.approx(float(golden["expected_size_with_hidden"]), rel=1e-5)
    else:
        size = without
    assert expected_sparsity(gates).item() == pytest.approx(1 - size / shape.prunable_size, abs=1e-6)


def test_lagrangian_and_its_gradients_at_each_step(golden):
    ramp = ramp_of(golden)
    columns = [golden[f"lag_{name}"] for name in ("steps", "loss", "expected_sparsity", "target_sparsity")]
    for step, loss, expected, target in zip(*columns, strict=True):
        gates, lagrangian = gates_of(golden), lagrangian_of(golden)
        s = expected_sparsity(gates)
        (slope,) = torch.autograd.grad(s, gates.loga, retain_graph=True)
        penalty = lagrangian(s, ramp(int(step)))
        penalty.backward()
        assert s.item() == pytest.approx(expected, abs=SPARSITY_ERROR)
        assert ramp(int(step)) == pytest.approx(target, abs=1e-6)
        assert penalty.item() == pytest.approx(loss, abs=1e-5)
        # the gradient is (lambda_1 + 2 lambda_2 (s - t)) ds/dloga: where that factor cancels, the error of s is left
        slack = 2 * abs(lagrangian.lambda_2.item()) * SPARSITY_ERROR * slope.abs().max().item()
        prefix = f"grad_lag_step{step}_"
        for kind, gradient in gradients(gates).items():
            assert_gradient(gradient, golden[prefix + OFFICIAL_KINDS[kind]], f"step {step}, {kind}", slack)
        for name in ("lambda_1", "lambda_2"):
            gradient = getattr(lagrangian, name).grad.item()
            assert gradient == pytest.approx(float(golden[prefix + name]), rel=1e-4, abs=SPARSITY_ERROR)


def test_model_size(golden):
    if "model_size_remaining_params" not in golden:
        pytest.skip("the official count fails without hidden masks")
    gates = gates_of(golden)
    shape, masks = gates.shape, gates.deterministic()
    structure = masks.structure(shape)
    # the official lists count units before the layer masks, its sums after them
    assert structure.mha == tuple(golden["model_size_head_layers"].astype(bool).tolist())
    assert structure.ffn == tuple(golden["model_size_mlp_layers"].astype(bool).tolist())
    assert structure.heads == tuple((golden["model_size_head_nums"] * golden["model_size_head_layers"]).tolist())
    units = golden["model_size_intermediate_dims"] * golden["model_size_mlp_layers"]
    assert structure.intermediate == tuple(units.tolist())
    assert structure.hidden == golden["model_size_hidden_dims"]
    kept = kept_parameters(structure, shape)
    assert kept == golden["model_size_remaining_params"]
    assert shape.prunable_size - kept == golden["model_size_pruned_params"]
    assert sparsity(structure, shape) == pytest.approx(float(golden["model_size_pruned_model_sparsity"]), abs=1e-12)


def test_trajectory_under_the_constraint_alone(golden):
    if "traj_lambda_1" not in golden:
        pytest.skip("no trajectory in this file")
    gates, lagrangian, ramp = gates_of(golden), Lagrangian(), ramp_of(golden)
    lr = float(golden["traj_lr"])
    descent = torch.optim.AdamW(gates.parameters(), lr=lr, weight_decay=0.0)
    ascent = ascent_optimizer(lagrangian, lr)
    seen: dict[str, list[float]] = {"lambda_1": [], "lambda_2": [], "expected_sparsity": [], "loss": []}
    for step in range(len(golden["traj_lambda_1"])):
        descent.zero_grad()
        ascent.zero_grad()
        s = expected_sparsity(gates)
        penalty = lagrangian(s, ramp(step))
        penalty.backward()
        descent.step()
        ascent.step()
        gates.clamp_()
        now = (lagrangian.lambda_1, lagrangian.lambda_2, s, penalty)
        for values, value in zip(seen.values(), now, strict=True):
            values.append(value.item())
    for name, values in seen.items():
        expected = golden[f"traj_{name}" + ("" if name.startswith("lambda") else "_before_step")]
        torch.testing.assert_close(torch.tensor(values), tensor(expected).float(), rtol=1e-4, atol=2e-5)
    # AdamW divides by the size of the gradient: where that is tiny, a rounding moves loga by a share of the step
    assert_kinds(gates.views(), golden, "traj_final_loga_", rtol=0, atol=0.01 * lr)


def test_scalar_sweep(golden_dir):
    """loga over its whole range; a mask of a single unit is on where its keep probability rounds to 1."""
    golden = load(golden_dir, "l0_scalar_sweep")
    n = len(golden["loga"])
    gates = Gates(ModelShape(n_layers=n, n_heads=1, head_dim=1, d_hidden=1, d_int=1), "ffn", seed=0)
    with torch.no_grad():
        gates.views()["ffn"].copy_(tensor(golden["loga"]))
    z, p = gates.deterministic().z_ffn, gates.keep_probabilities()["ffn"].detach()
    torch.testing.assert_close(p, tensor(golden["score"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(z, tensor(golden["det_layer_z"]), rtol=1e-5, atol=1e-6)
    on = z != 0
    assert torch.equal(on, tensor(golden["det_layer_z"]) != 0)
    torch.testing.assert_close(z[on], tensor(golden["soft_mask"])[on], rtol=1e-5, atol=1e-6)
