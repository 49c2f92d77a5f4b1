"""Expected number of parameters that remain, in plain PyTorch: the definition every backend reproduces.

    a = sum_i p_mha[i] sum_j p_head[i, j],   f = sum_i p_ffn[i] sum_j p_int[i, j]
    size = sum_k p_hidden[k] * (head_cost / n_hidden * a + 2 * f)          with p_hidden
    size = head_cost * a + int_cost * f                                   without

L layers, H heads, I intermediate dims, E hidden. A mask kind that is absent is never pruned: its probabilities are 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def forward(
    p_head: Tensor | None,
    p_int: Tensor | None,
    p_mha: Tensor | None,
    p_ffn: Tensor | None,
    p_hidden: Tensor | None,
    head_cost: float,
    int_cost: float,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> Tensor:
    """Returns the expected size, 0-dim."""
    like = _first(p_head, p_int, p_mha, p_ffn, p_hidden)
    attention = _kept_units(p_head, p_mha, n_layers, n_heads, like).sum()
    ffn = _kept_units(p_int, p_ffn, n_layers, n_int, like).sum()
    if p_hidden is None:
        return head_cost * attention + int_cost * ffn
    return p_hidden.sum() * (head_cost / n_hidden * attention + 2.0 * ffn)


def backward(
    dsize: Tensor,
    p_head: Tensor | None,
    p_int: Tensor | None,
    p_mha: Tensor | None,
    p_ffn: Tensor | None,
    p_hidden: Tensor | None,
    head_cost: float,
    int_cost: float,
    n_hidden: int,
    n_layers: int,
    n_heads: int,
    n_int: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns dp_head (L, H), dp_int (L, I), dp_mha (L,), dp_ffn (L,), dp_hidden (E,); (0,) for what is absent."""
    if p_hidden is None:
        head_factor, int_factor = dsize * head_cost, dsize * int_cost
        dp_hidden = dsize.new_empty(0)
    else:
        per_head, hidden = head_cost / n_hidden, p_hidden.sum()
        head_factor, int_factor = dsize * hidden * per_head, dsize * hidden * 2.0
        attention = _kept_units(p_head, p_mha, n_layers, n_heads, p_hidden).sum()
        ffn = _kept_units(p_int, p_ffn, n_layers, n_int, p_hidden).sum()
        dp_hidden = (dsize * (per_head * attention + 2.0 * ffn)).expand(p_hidden.shape).clone()
    dp_head, dp_mha = _unit_gradients(head_factor, p_head, p_mha, n_heads)
    dp_int, dp_ffn = _unit_gradients(int_factor, p_int, p_ffn, n_int)
    return dp_head, dp_int, dp_mha, dp_ffn, dp_hidden


def _kept_units(p_unit: Tensor | None, p_layer: Tensor | None, n_layers: int, n_units: int, like: Tensor) -> Tensor:
    """Expected number of units kept in each layer, (L,)."""
    units = like.new_full((n_layers,), n_units) if p_unit is None else p_unit.sum(1)
    return units if p_layer is None else p_layer * units


def _unit_gradients(
    factor: Tensor, p_unit: Tensor | None, p_layer: Tensor | None, n_units: int
) -> tuple[Tensor, Tensor]:
    """Gradients of factor * sum_i p_layer[i] sum_j p_unit[i, j] with respect to p_unit and p_layer."""
    dp_unit, dp_layer = factor.new_empty(0), factor.new_empty(0)
    if p_unit is not None:
        per_layer = p_unit.new_ones(p_unit.shape[0]) if p_layer is None else p_layer
        dp_unit = (factor * per_layer)[:, None].expand(p_unit.shape).clone()
    if p_layer is not None:
        units = torch.full_like(p_layer, n_units) if p_unit is None else p_unit.sum(1)
        dp_layer = factor * units
    return dp_unit, dp_layer


def _first(*candidates: Tensor | None) -> Tensor:
    return next(p for p in candidates if p is not None)
