import pytest
import torch

from cofi.masks import MASK_KINDS, Gates, ModelShape, expected_sparsity

from .cases import SHAPE, SUBSETS, spread_gates


def plain_expected_size(p: dict[str, torch.Tensor], shape: ModelShape) -> torch.Tensor:
    """method of the paper's code, one unit at a time; an absent kind is kept for certain."""
    one = {name: torch.ones(kind.units(shape), dtype=torch.float64) for name, kind in MASK_KINDS.items()} | p
    heads = sum(one["mha"][i] * one["head"][i, j] for i in range(shape.n_layers) for j in range(shape.n_heads))
    ints = sum(one["ffn"][i] * one["int"][i, j] for i in range(shape.n_layers) for j in range(shape.d_int))
    if "hidden" in p:
        return sum(p_k * (shape.head_cost / shape.d_hidden * heads + 2 * ints) for p_k in p["hidden"])
    return shape.head_cost * heads + shape.int_cost * ints


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_value_and_gradient_for_every_subset(kinds):
    gates = spread_gates(kinds)
    loss = expected_sparsity(gates)
    loss.backward()

    twin = spread_gates(kinds).double()
    p = {name: torch.sigmoid(v + 2 / 3 * torch.tensor(11.0).double().log()) for name, v in twin.views().items()}
    expected = 1 - plain_expected_size(p, SHAPE) / SHAPE.prunable_size
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(gates.loga.grad.double(), twin.loga.grad, rtol=1e-4, atol=1e-7)


ROUNDED = SHAPE.n_layers * (SHAPE.n_heads * SHAPE.head_cost + SHAPE.d_int * SHAPE.int_cost)
LOST = 1 - ROUNDED / SHAPE.prunable_size  # the cost of an intermediate dim is rounded down to an integer


@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_closing_all_gates_of_a_subset_prunes_what_they_hold(kinds):
    gates = Gates(SHAPE, kinds, init_means=dict.fromkeys(kinds, -30.0), seed=0)
    attention = SHAPE.n_layers * SHAPE.n_heads * SHAPE.head_cost / SHAPE.prunable_size
    holds_attention = bool({"head", "mha", "hidden"} & set(kinds))
    holds_ffn = bool({"int", "ffn", "hidden"} & set(kinds))
    expected = attention * holds_attention + (1 - attention) * holds_ffn
    assert expected_sparsity(gates).item() == pytest.approx(expected, abs=LOST + 1e-5)


def test_open_gates_are_not_sparse():
    gates = Gates(SHAPE, "head,mha,ffn", init_means=dict.fromkeys(MASK_KINDS, 30.0), seed=0)
    assert expected_sparsity(gates).item() == pytest.approx(LOST, abs=1e-5)
