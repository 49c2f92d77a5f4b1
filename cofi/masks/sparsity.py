"""Expected sparsity: the quantity that the Lagrangian holds to its target."""

from __future__ import annotations

from torch import Tensor

import cofi_kernels
from cofi.masks.gates import Gates


def expected_sparsity(gates: Gates) -> Tensor:
    """1 - expected size / prunable size, a 0-dim fp32 tensor differentiable in loga.

    Masks count as independent; a kind that is not learned counts as kept. With hidden masks the size is that of the
    weights alone, without biases, as in the official code.
    """
    p, shape = gates.keep_probabilities(), gates.shape
    size = cofi_kernels.expected_size(
        p.get("head"),
        p.get("int"),
        p.get("mha"),
        p.get("ffn"),
        p.get("hidden"),
        head_cost=shape.head_cost,
        int_cost=shape.int_cost,
        n_hidden=shape.d_hidden,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_int=shape.d_int,
    )
    return 1 - size / shape.prunable_size
