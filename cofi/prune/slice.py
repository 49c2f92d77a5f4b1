"""Slice: keep the rows and columns of live units and drop everything that belongs to a dead one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cofi.masks import Masks, Structure
from cofi.prune.axes import HEAD, HIDDEN, INT, Axes, layer_of, parameter_axes


def slice_state(
    state: Mapping[str, Tensor], masks: Masks, structure: Structure, outside: dict[str, Axes], head_dim: int
) -> dict[str, Tensor]:
    """State dict of the smaller model: live units only, in their order; removed sublayers have no entry.

    state: as `fold` returns it; structure: of the same masks; outside: `model_axes` of the model.
    """
    sliced = {}
    for name, weight in state.items():
        layer = layer_of(name)
        if layer is not None and not _sublayer_kept(layer, structure):
            continue
        live = _live_indices(masks, None if layer is None else layer[0], head_dim)
        for axis, unit in enumerate(parameter_axes(name, outside)):
            index = None if unit is None else live[unit]
            if index is not None:
                weight = weight.index_select(axis, index.to(weight.device))
        # a copy even where nothing was cut: the small model must not share memory with the large one
        sliced[name] = weight.clone() if weight is state[name] else weight
    return sliced


def _sublayer_kept(layer: tuple[int, str], structure: Structure) -> bool:
    index, name = layer
    return structure.mha[index] if name.startswith("attention.") else structure.ffn[index]


def _live_indices(masks: Masks, layer: int | None, head_dim: int) -> dict[str, Tensor | None]:
    """Per unit, the live positions along an axis of that unit; None where all are."""
    z_head = None if masks.z_head is None or layer is None else masks.z_head[layer].repeat_interleave(head_dim)
    z_int = None if masks.z_int is None or layer is None else masks.z_int[layer]
    per_unit = {HIDDEN: masks.z_hidden, HEAD: z_head, INT: z_int}
    return {unit: None if z is None else torch.nonzero(z, as_tuple=True)[0] for unit, z in per_unit.items()}
