"""Expected size: value and gradients against slow loops for every subset of mask kinds, registration, arguments."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import expected_size, force_backend
from tests.kernels.oracle import Inputs, assert_matches, gradients

KINDS = ("p_head", "p_int", "p_mha", "p_ffn", "p_hidden")
SUBSETS = [subset for size in range(1, 6) for subset in combinations(KINDS, size)]
COSTS = {"head_cost": 196864.0, "int_cost": 1537.0}
SIZES = {"n_hidden": 11, "n_layers": 3, "n_heads": 4, "n_int": 7}


def sizes_of(n_layers: int, n_heads: int, n_int: int, n_hidden: int) -> dict[str, int]:
    return {"n_hidden": n_hidden, "n_layers": n_layers, "n_heads": n_heads, "n_int": n_int}


def inputs_of(subset: tuple[str, ...], sizes: dict[str, int], device: str) -> Inputs:
    layers = sizes["n_layers"]
    shapes = ((layers, sizes["n_heads"]), (layers, sizes["n_int"]), (layers,), (layers,), (sizes["n_hidden"],))
    return {
        name: torch.rand(shape, device=device) if name in subset else None
        for name, shape in zip(KINDS, shapes, strict=True)
    }


def plain(
    p_head: Tensor | None,
    p_int: Tensor | None,
    p_mha: Tensor | None,
    p_ffn: Tensor | None,
    p_hidden: Tensor | None,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> Tensor:
    """Parameter by parameter: the probability that each is kept, added up."""
    given = [p for p in (p_head, p_int, p_mha, p_ffn, p_hidden) if p is not None]
    total = sum(0.0 * p.sum() for p in given)  # of no unit too, the size is a function of them
    for i in range(n_layers):
        for units, p_unit, p_layer, cost in ((n_heads, p_head, p_mha, "head"), (n_int, p_int, p_ffn, "int")):
            for j in range(units):
                kept = 1.0 if p_unit is None else p_unit[i, j]
                kept = kept if p_layer is None else kept * p_layer[i]
                if p_hidden is None:
                    total = total + COSTS[f"{cost}_cost"] * kept
                else:
                    per_dim = COSTS["head_cost"] / n_hidden if cost == "head" else 2.0
                    total = total + (per_dim * kept * p_hidden).sum()
    return total


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_value_and_gradients_match_fp64_for_every_subset(device, backend, subset):
    run = partial(expected_size, **COSTS, **SIZES)
    assert_matches(run, partial(plain, **SIZES), inputs_of(subset, SIZES, device))


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 0, 0, 5), (5, 3, 37, 23)], ids=str)
def test_value_and_gradients_match_fp64_at_every_size(device, backend, sizes):
    named = sizes_of(*sizes)
    run, formula = partial(expected_size, **COSTS, **named), partial(plain, **named)
    assert_matches(run, formula, inputs_of(KINDS, named, device))


def test_nothing_pruned_is_the_whole_size(backend):
    whole = 3 * (4 * COSTS["head_cost"] + 7 * COSTS["int_cost"])
    assert expected_size(None, None, **COSTS, **SIZES).item() == whole
    ones = {name: torch.ones_like(t) for name, t in inputs_of(KINDS[:4], SIZES, "cpu").items() if t is not None}
    assert expected_size(**ones, **COSTS, **SIZES).item() == whole


def test_compiles_without_graph_break(device, backend):
    inputs = inputs_of(KINDS, SIZES, device)
    run = partial(expected_size, **COSTS, **SIZES)
    dy = torch.tensor(1e-6, device=device)
    want, want_grads = gradients(run, inputs, torch.float32, dy)
    got, got_grads = gradients(torch.compile(run, fullgraph=True, backend="aot_eager"), inputs, torch.float32, dy)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_grads, want_grads)


@pytest.mark.parametrize("subset", [KINDS, ("p_int", "p_mha")], ids="+".join)
def test_registered_op_obeys_pytorch_contract(device, backend, subset):
    tensors = [t if t is None else t.requires_grad_() for t in inputs_of(subset, SIZES, device).values()]
    rest = (*COSTS.values(), *SIZES.values())
    torch.library.opcheck(torch.ops.cofi_kernels.expected_size.default, (*tensors, *rest))
    tensors = [t if t is None else t.detach() for t in tensors]
    args = (torch.tensor(1.0, device=device), *tensors, *rest)
    torch.library.opcheck(torch.ops.cofi_kernels.expected_size_backward.default, args)


def test_reference_backward_is_the_gradient_in_fp64():
    inputs = {name: t.double() for name, t in inputs_of(KINDS, SIZES, "cpu").items()}
    args = tuple(t.requires_grad_() for t in inputs.values())
    with force_backend("reference"):
        assert torch.autograd.gradcheck(lambda *p: expected_size(*p, head_cost=3.0, int_cost=2.0, **SIZES), args)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "head": ({"p_head": torch.zeros(4, 3)}, ValueError, r"p_head must have shape \(3, 4\), got \(4, 3\)"),
    "hidden": ({"p_hidden": torch.zeros(7)}, ValueError, r"p_hidden must have shape \(11\), got \(7,\)"),
    "half": ({"p_mha": torch.zeros(3).half()}, TypeError, "p_mha must be one of .* got torch.float16"),
    "mixed": ({"p_ffn": torch.zeros(3).double()}, TypeError, "p_ffn must have the dtype of p_head, .* torch.float64"),
    "layers": ({"n_layers": 0}, ValueError, "n_layers must be positive, got 0"),
    "width": ({"n_hidden": 0}, ValueError, "n_hidden must be positive, got 0"),
}


@pytest.mark.parametrize("change, error, message", BAD.values(), ids=BAD)
def test_rejects_wrong_arguments(change, error, message):
    with pytest.raises(error, match=message):
        expected_size(**{**inputs_of(KINDS, SIZES, "cpu"), **COSTS, **SIZES, **change})
