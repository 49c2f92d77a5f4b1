"""Fold: multiply soft masks into the weights that produce what they mask, so that no mask is left to apply.

The masked encoder (Xia, Zhong, Chen, ACL 2022, section 3.1, in the order of the official code) multiplies by z_hidden
the embeddings before and after their LayerNorm, each sublayer's output before the residual sum, and each LayerNorm's
output. All of these are outputs of a table, of W_out or W_down, or of a LayerNorm's affine part, so scaling those
once gives the same hidden states, and nothing that reads a hidden state changes. The statistics of a LayerNorm are
over the kept dims, which are the only ones left after slicing. (The official export scales the readers instead and
misses the residual sum: its result equals the masked model for masks of 0 and 1 only.)
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cofi.masks import LayerMasks, Masks
from cofi.prune.axes import HEAD, HIDDEN, INT, Axes, layer_of, parameter_axes

# weights whose outputs are masked, and the layer mask that multiplies the output as well
_LAYER_PRODUCERS = {
    "attention.w_out": "z_mha",
    "attention.b_out": "z_mha",
    "attention.norm.weight": None,
    "attention.norm.bias": None,
    "ffn.w_down": "z_ffn",
    "ffn.b_down": "z_ffn",
    "ffn.norm.weight": None,
    "ffn.norm.bias": None,
}


def fold(state: Mapping[str, Tensor], masks: Masks, outside: dict[str, Axes], head_dim: int) -> dict[str, Tensor]:
    """State dict in which the model without masks computes what `state` computes under `masks`, on the kept dims.

    state: of a `CompactModel`; left as it is, entries that no mask scales are shared with the result.
    outside: `model_axes` of the model. Products are taken in fp32 at least and rounded once to the weight's dtype.
    """
    whole = LayerMasks(z_hidden=masks.z_hidden)
    folded = {}
    for name, weight in state.items():
        layer = layer_of(name)
        axes = parameter_axes(name, outside)
        if layer is None:
            factor = _axes_factor(weight, axes, whole, head_dim) if name.startswith("embeddings.") else None
        elif layer[1] in _LAYER_PRODUCERS:
            layer_masks = masks.layer(layer[0])
            layer_mask = _LAYER_PRODUCERS[layer[1]]
            z_layer = None if layer_mask is None else getattr(layer_masks, layer_mask)
            factor = _product(_axes_factor(weight, axes, layer_masks, head_dim), z_layer)
        else:
            factor = None
        folded[name] = weight if factor is None else _scale(weight, factor)
    return folded


def _axes_factor(weight: Tensor, axes: Axes, masks: LayerMasks, head_dim: int) -> Tensor | None:
    """Product of the masks along each axis, of a shape that broadcasts with the weight; None where nothing masks."""
    per_axis = {
        HIDDEN: masks.z_hidden,
        HEAD: None if masks.z_head is None else masks.z_head.repeat_interleave(head_dim),
        INT: masks.z_int,
    }
    factor: Tensor | None = None
    for axis, unit in enumerate(axes):
        z = None if unit is None else per_axis[unit]
        if z is not None:
            factor = _product(factor, z.view([-1 if i == axis else 1 for i in range(weight.dim())]))
    return factor


def _product(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a * b


def _scale(weight: Tensor, factor: Tensor) -> Tensor:
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return (weight.to(dtype) * factor.to(weight.device, dtype)).to(weight.dtype)
