"""Models of the official code: its weights through our loader, and its masked forward written out with padding.

B sequences, S padded length, H heads, E hidden, I intermediate, L layers.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from cofi.masks import Masks
from cofi.models import CompactModel, load_model
from cofi.models.families import FAMILIES

from .goldens import OFFICIAL_KINDS, tensor

EPS = 1e-12  # of every LayerNorm in the fixtures
PADDING_ID = 0


def with_prefix(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def load_official(directory: Path, weights: Mapping[str, np.ndarray], n_heads: int, task: str) -> CompactModel:
    """Write official weights as a Hugging Face checkpoint without dropout and load it. task: the end of the class."""
    tables = {name: weights[f"bert.embeddings.{name}.weight"] for name in ("word_embeddings", "position_embeddings")}
    n_layers = 1 + max(int(match[1]) for key in weights if (match := re.search(r"encoder\.layer\.(\d+)\.", key)))
    config = {
        "model_type": "bert",
        "architectures": [f"BertFor{task}"],
        "vocab_size": tables["word_embeddings"].shape[0],
        "hidden_size": tables["word_embeddings"].shape[1],
        "max_position_embeddings": tables["position_embeddings"].shape[0],
        "type_vocab_size": weights["bert.embeddings.token_type_embeddings.weight"].shape[0],
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "intermediate_size": weights["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": EPS,
    }
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file({key: tensor(value).contiguous() for key, value in weights.items()}, directory / "model.safetensors")
    loaded = load_model(directory)
    assert loaded.head_trained
    return loaded.model


def official_masks(arrays: Mapping[str, np.ndarray], prefix: str) -> Masks:
    """Masks of one case as leaves that ask for a gradient: head_z [L,1,H,1,1] is our (L, H) and so on."""
    found = {}
    for kind, official in OFFICIAL_KINDS.items():
        if f"{prefix}{official}_z" in arrays:
            found[kind] = squeezed(arrays[f"{prefix}{official}_z"]).requires_grad_()
    return Masks.from_kinds(found)


def squeezed(array: np.ndarray) -> Tensor:
    """Official [L,1,H,1,1] and [L,1,1,I] as (L, H) and (L, I); the others as they are."""
    return tensor(array) if array.ndim < 2 else tensor(array).reshape(array.shape[0], -1)


def official_gradients(model: CompactModel) -> dict[str, Tensor | None]:
    """Gradients of a loaded BERT under the official names of its weights."""
    family = FAMILIES["bert"]
    gradients: dict[str, Tensor | None] = {}
    parameters = dict(model.named_parameters())
    for ours, source in family.sources(family.prefix, len(model.layers)).items():
        for i, name in enumerate(source.names):
            grad = parameters[ours].grad
            if grad is not None:
                grad = grad[i] if len(source.names) > 1 else grad
                grad = grad.T if source.transposed else grad
            gradients[name] = grad
    for ours, official in (("pooler", "bert.pooler.dense"), ("classifier", "classifier")):
        for part in ("weight", "bias"):
            if f"{ours}.{part}" in parameters:
                gradients[f"{official}.{part}"] = parameters[f"{ours}.{part}"].grad
    return gradients


class PaddedBert:
    """The official masked forward with padding: what the packed model is compared with where padding has a share.

    weights: official names; leaves of a graph, so that gradients can be taken
    """

    def __init__(self, weights: Mapping[str, np.ndarray], n_heads: int) -> None:
        self.w = {key: tensor(value).requires_grad_() for key, value in weights.items() if value.dtype.kind == "f"}
        self.n_heads = n_heads
        self.n_layers = len(
            [key for key in self.w if re.fullmatch(r"bert\.encoder\.layer\.\d+\.output\.dense\.bias", key)]
        )

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, x: Tensor, name: str, z_hidden: Tensor | None) -> Tensor:
        """Statistics over kept dims, the others copied through."""
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        if z_hidden is None:
            return F.layer_norm(x, weight.shape, weight, bias, EPS)
        kept = z_hidden.nonzero().squeeze(1)
        return x.index_copy(-1, kept, F.layer_norm(x[..., kept], kept.shape, weight[kept], bias[kept], EPS))

    def add_and_norm(self, y: Tensor, x: Tensor, name: str, z_hidden: Tensor | None) -> Tensor:
        if (y == 0).all():
            return y + x
        return scaled(self.norm(scaled(y, z_hidden) + x, name, z_hidden), z_hidden)

    def layer(self, x: Tensor, bias: Tensor, name: str, masks: Masks, i: int) -> Tensor:
        batch, length, hidden = x.shape
        projected = [self.linear(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        q, k, v = (p.view(batch, length, self.n_heads, -1).transpose(1, 2) for p in projected)
        probabilities = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias, dim=-1)
        z = masks.layer(i)
        context = scaled(probabilities @ v, None if z.z_head is None else z.z_head.view(-1, 1, 1))
        a = self.linear(context.transpose(1, 2).reshape(batch, length, hidden), f"{name}.attention.output.dense")
        x = self.add_and_norm(scaled(a, z.z_mha), x, f"{name}.attention.output.LayerNorm", z.z_hidden)
        up = scaled(F.gelu(self.linear(x, f"{name}.intermediate.dense")), z.z_int)
        f = scaled(self.linear(up, f"{name}.output.dense"), z.z_ffn)
        return self.add_and_norm(f, x, f"{name}.output.LayerNorm", z.z_hidden)

    def __call__(self, inputs: Mapping[str, Tensor], masks: Masks) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, C) and the L + 1 states (B, S, E)."""
        ids, z_hidden = inputs["input_ids"], masks.z_hidden
        tables = (f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
        word, position, token_type = (self.w[table] for table in tables)
        # the official table gives the padding token no gradient
        x = (
            F.embedding(ids, word, padding_idx=PADDING_ID)
            + position[: ids.shape[1]]
            + token_type[inputs["token_type_ids"]]
        )
        x = scaled(self.norm(scaled(x, z_hidden), "bert.embeddings.LayerNorm", z_hidden), z_hidden)
        states = [x]
        bias = (1.0 - inputs["attention_mask"][:, None, None, :]) * -10000.0
        for i in range(self.n_layers):
            states.append(self.layer(states[-1], bias, f"bert.encoder.layer.{i}", masks, i))
        pooled = torch.tanh(self.linear(states[-1][:, 0], "bert.pooler.dense"))
        return self.linear(pooled, "classifier"), states


def scaled(x: Tensor, z: Tensor | None) -> Tensor:
    return x if z is None else x * z


def model_inputs(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: tensor(arrays[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
