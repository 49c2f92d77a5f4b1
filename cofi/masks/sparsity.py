"""Sparsity: the share of the encoder's weights that is removed, as the Lagrangian holds it to its target."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

import cofi_kernels
from cofi.masks.gates import Gates
from cofi.masks.shape import ModelShape


def expected_sparsity(gates: Gates) -> Tensor:
    """1 - expected size / prunable size, a 0-dim fp32 tensor differentiable in loga.

    Masks count as independent; a kind that is not learned counts as kept. With hidden masks the size is that of the
    weights alone, without biases, as in the official code.
    """
    return sparsity_of(gates.keep_probabilities(), gates.shape)


def sparsity_of(kept: Mapping[str, Tensor], shape: ModelShape, *, biases: bool = True) -> Tensor:
    """1 - size / prunable size where each unit is kept with the given probability, 0-dim, differentiable.

    kept:   {kind: probability of each unit, in the kind's shape}, fp32; kinds left out are kept
    biases: count them as the official code does in its expected size; without, 0 and 1 give `structure.sparsity`
    """
    size = cofi_kernels.expected_size(
        kept.get("head"),
        kept.get("int"),
        kept.get("mha"),
        kept.get("ffn"),
        kept.get("hidden"),
        head_cost=shape.head_cost if biases else shape.head_weights,
        int_cost=shape.int_cost if biases else shape.int_weights,
        n_hidden=shape.d_hidden,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_int=shape.d_int,
    )
    return 1 - size / shape.prunable_size
