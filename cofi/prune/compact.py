"""From a model and its masks to the small model that computes the same."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from cofi.errors import UserError
from cofi.masks import Masks, Structure
from cofi.models import CompactConfig, CompactModel
from cofi.prune.axes import model_axes
from cofi.prune.fold import fold
from cofi.prune.slice import slice_state


@torch.no_grad()
def compact(model: CompactModel, masks: Masks) -> CompactModel:
    """The small model: its outputs are those of `model` under `masks`, hidden states on the kept dims.

    Exact for any masks, fractions included, in the model's dtype and on its device; `model` is not changed. A sublayer
    whose layer mask is 0 is removed; one whose layer mask is on but whose units are all dead keeps its bias and
    LayerNorm. model: every layer of one size. Masks: see `Masks`, any of them None.
    Raises ValueError where a mask does not fit the model, UserError where no hidden dimension is left.
    """
    masks = masks.detach().to(model.device)
    _check_values(masks)
    structure = masks.structure(model.config.shape())
    if structure.hidden == 0:
        raise UserError("no hidden dimension is left: z_hidden is zero everywhere, the model would be a constant")
    config = compact_config(cast(CompactConfig, model.config), structure)
    outside = model_axes(projection=model.embeddings.projection is not None, pooler=model.pooler is not None)
    folded = fold(model.state_dict(), masks, outside, model.config.head_dim)
    sliced = slice_state(folded, masks, structure, outside, model.config.head_dim)
    return build(type(model), config, sliced).train(model.training)


def compact_transform(weight: Tensor, masks: Masks) -> Tensor:
    """Weight of the layer transform for the small student: (Et, Es) -> (Et, kept dims of Es), a copy.

    The transform reads the student's states, which lose dims and keep their values, so it loses columns only.
    Raises ValueError where z_hidden has not the (Es,) elements of the weight's columns.
    """
    if masks.z_hidden is None:
        return weight.detach().clone()
    if weight.dim() != 2 or masks.z_hidden.shape != weight.shape[1:]:
        raise ValueError(
            f"z_hidden must have one element per column of weight {tuple(weight.shape)}, "
            f"got {tuple(masks.z_hidden.shape)}"
        )
    kept = torch.nonzero(masks.z_hidden.detach(), as_tuple=True)[0]
    return weight.detach().index_select(1, kept.to(weight.device))


def compact_config(config: CompactConfig, structure: Structure) -> CompactConfig:
    """Configuration of what is left: sizes of the dense model, and per layer what differs from them."""
    values = config.to_dict()
    values.update(
        hidden_size=structure.hidden,
        embedding_size=config.embedding_size if config.embedding_projection else structure.hidden,
        per_layer_config=per_layer_config(config.num_attention_heads, config.intermediate_size, structure),
    )
    return CompactConfig.from_dict(values)


def per_layer_config(n_heads: int, intermediate_size: int, structure: Structure) -> dict[int, dict[str, Any]]:
    """transformers' sparse schema: {layer: {field: value}}, only what differs from the sizes of the whole model."""
    layers: dict[int, dict[str, Any]] = {}
    rows = zip(structure.heads, structure.intermediate, structure.mha, structure.ffn, strict=True)
    for index, (heads, intermediate, mha, ffn) in enumerate(rows):
        fields: dict[str, Any] = {}
        if heads != n_heads:
            fields["num_attention_heads"] = heads
        if intermediate != intermediate_size:
            fields["intermediate_size"] = intermediate
        if mha and heads == 0:
            fields["attention_bias_only"] = True
        if ffn and intermediate == 0:
            fields["ffn_bias_only"] = True
        if fields:
            layers[index] = fields
    return layers


def build(kind: type[CompactModel], config: CompactConfig, state: dict[str, Tensor]) -> CompactModel:
    """A model that holds exactly `state`: on its device, in its dtype. torch's generator is left as it was."""
    # initialising advances the generator even where nothing is stored; a training run must not depend on that
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        model = kind(config)
    model.load_state_dict(state, strict=True, assign=True)
    return model


def _check_values(masks: Masks) -> None:
    for name, z in masks.by_kind().items():
        if not bool(((z >= 0) & (z <= 1)).all()):
            raise ValueError(f"z_{name} must be within [0, 1], got {z.min().item()} to {z.max().item()}")
