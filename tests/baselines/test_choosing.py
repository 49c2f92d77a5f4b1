"""Which units the one-shot methods keep, and that they keep to the budget."""

from __future__ import annotations

import pytest
import torch

from cofi.baselines import ONE_SHOT, Evidence, FixedGates
from cofi.errors import UserError
from cofi.masks import ModelShape, expected_sparsity, kept_parameters, sparsity

MINILM = ModelShape(n_layers=6, n_heads=12, head_dim=32, d_hidden=384, d_int=1536)
ODD = ModelShape(n_layers=3, n_heads=5, head_dim=7, d_hidden=35, d_int=53)
BERT = ModelShape(n_layers=12, n_heads=12, head_dim=64, d_hidden=768, d_int=3072)
REACH = {"prune-heads": 0.3, "prune-ffn": 0.4, "drop-top-layers": 0.6, "drop-every-other-layer": 0.6}


def evidence(shape: ModelShape, target: float, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)
    gradients = [
        {
            "head": torch.randn(count, shape.n_layers, shape.n_heads, generator=generator),
            "int": torch.randn(count, shape.n_layers, shape.d_int, generator=generator),
        }
        for count in (3, 1)
    ]
    return Evidence(shape, target, lambda: iter(gradients))


@pytest.mark.parametrize("shape", [MINILM, ODD, BERT], ids=["minilm", "odd", "bert"])
@pytest.mark.parametrize("method", ONE_SHOT)
def test_the_budget_is_kept_and_used(method, shape):
    found = evidence(shape, REACH.get(method, 0.9))
    structure = ONE_SHOT[method](found).structure(shape)
    head, dim = 4 * shape.head_dim * shape.d_hidden, 2 * shape.d_hidden
    layer = shape.n_heads * head + shape.d_int * dim
    steps = {"prune-heads": shape.n_layers * head, "prune-ffn": shape.n_layers * dim, "fisher": dim}
    steps["small-student"] = 4 * layer // shape.d_hidden
    step = steps.get(method, layer)  # the least that could have been kept as well
    assert found.budget - step <= kept_parameters(structure, shape) <= found.budget
    assert sparsity(structure, shape) >= found.sparsity - 1e-6


@pytest.mark.parametrize("method", ONE_SHOT)
def test_nothing_to_remove_keeps_what_the_method_can(method):
    structure = ONE_SHOT[method](evidence(MINILM, 0.0)).structure(MINILM)
    if method == "small-student":
        assert sum(structure.mha) == 4
    else:
        assert kept_parameters(structure, MINILM) == MINILM.n_layers * 384 * (4 * 384 + 2 * 1536)


@pytest.mark.parametrize(("method", "layers"), [("drop-top-layers", [0, 1, 2]), ("drop-every-other-layer", [1, 3, 5])])
def test_which_layers_stay(method, layers):
    structure = ONE_SHOT[method](evidence(MINILM, 0.5)).structure(MINILM)
    assert [i for i, there in enumerate(structure.mha) if there] == layers
    assert structure.mha == structure.ffn
    assert all(structure.heads[i] == 12 and structure.intermediate[i] == 1536 for i in layers)


@pytest.mark.parametrize(
    ("method", "target", "limit"),
    [
        ("drop-top-layers", 0.9, 0.83),
        ("drop-every-other-layer", 0.9, 0.83),
        ("prune-heads", 0.6, 0.33),
        ("prune-ffn", 0.8, 0.66),
    ],
)
def test_out_of_reach_is_an_error_that_says_the_limit(method, target, limit):
    with pytest.raises(UserError, match=rf"--method {method} reaches at most sparsity {limit}\d here, --sparsity asks"):
        ONE_SHOT[method](evidence(MINILM, target))


@pytest.mark.parametrize(("method", "kind", "count"), [("prune-heads", "head", 1), ("prune-ffn", "int", 155)])
def test_the_most_important_units_of_each_layer_stay(method, kind, count):
    found = evidence(MINILM, {"head": 0.3, "int": 0.6}[kind])
    z = ONE_SHOT[method](found).by_kind()
    importance = torch.cat([gradients[kind].abs() for gradients in found.gradients()]).mean(0)
    kept = z[kind].bool()
    assert kept.sum(1).tolist() == [count] * 6
    assert all(importance[i][kept[i]].min() >= importance[i][~kept[i]].max() for i in range(6))
    other = {"head": "int", "int": "head"}[kind]
    assert bool((z[other] == 1).all())


def test_fisher_takes_the_units_that_are_worth_most_for_their_weights():
    found = evidence(MINILM, 0.9)
    z = ONE_SHOT["fisher"](found).by_kind()
    score = {kind: torch.cat([g[kind].square() for g in found.gradients()]).mean(0) for kind in ("head", "int")}
    worth = {"head": score["head"] / (4 * 32 * 384), "int": score["int"] / (2 * 384)}
    kept = torch.cat([worth[kind][z[kind] == 1] for kind in worth])
    lost = {kind: worth[kind][z[kind] == 0] for kind in worth}
    assert kept.min() >= lost["int"].max()  # a dim always fits
    assert bool(((z["mha"] == 1) == (z["head"].sum(1) > 0)).all())


def test_fisher_may_leave_a_layer_without_units_and_cuts_it():
    gradients = {"head": torch.zeros(2, 3, 5), "int": torch.zeros(2, 3, 53)}
    gradients["int"][:, 1] = 1.0
    masks = ONE_SHOT["fisher"](Evidence(ODD, 0.9, lambda: iter([gradients])))
    structure = masks.structure(ODD)
    assert structure.ffn == (False, True, False) and structure.mha == (False, False, False)


def test_a_small_student_has_four_layers_of_one_shape():
    structure = ONE_SHOT["small-student"](evidence(BERT, 0.95)).structure(BERT)
    assert [i for i, there in enumerate(structure.mha) if there] == [2, 5, 8, 11]
    heads, dims = ({n for n in sizes if n} for sizes in (structure.heads, structure.intermediate))
    assert heads == {4} and dims == {1190} and structure.hidden == 312  # TinyBERT: 12 of 26 dims, 1200, 312


@pytest.mark.parametrize("method", ONE_SHOT)
def test_gates_hold_the_choice_and_survive_a_checkpoint(method):
    masks = ONE_SHOT[method](evidence(ODD, {"prune-heads": 0.3, "prune-ffn": 0.4}.get(method, 0.5)))
    gates = FixedGates(ODD, masks)
    again = FixedGates(ODD)
    again.load_state_dict(gates.state_dict())
    for found in (gates.deterministic(), gates.sample(torch.zeros(1)), again.deterministic()):
        for kind, z in found.by_kind().items():
            assert torch.equal(z, masks.by_kind().get(kind, torch.ones_like(z)))
    left = kept_parameters(masks.structure(ODD), ODD) / ODD.prunable_size
    assert float(expected_sparsity(gates)) == pytest.approx(1 - left, abs=0.02)  # counts biases as well
