"""What distinguishes one family of Hugging Face encoders from another: names of tensors and of config fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cofi.errors import UserError

# Hugging Face's names of the activations the kernels have
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "gelu_pytorch_tanh": "gelu_new", "relu": "relu"}


@dataclass(frozen=True)
class Source:
    """Where a parameter comes from: one tensor, or three to stack; transposed where Linear's columns are our units."""

    names: tuple[str, ...]
    transposed: bool = False

    def renamed(self, prefix: str) -> Source:
        """The same source with `prefix` before its names."""
        return replace(self, names=tuple(prefix + name for name in self.names))

    def shape(self, parameter: Sequence[int]) -> tuple[int, ...]:
        """Shape that every named tensor must have for a parameter of shape `parameter`."""
        shape = tuple(parameter) if len(self.names) == 1 else tuple(parameter[1:])
        return shape[::-1] if self.transposed else shape

    def convert(self, tensors: Sequence[Tensor]) -> Tensor:
        """The parameter, contiguous, from the named tensors."""
        if len(self.names) > 1:
            return torch.stack(tuple(tensors))
        return tensors[0].T.contiguous() if self.transposed else tensors[0]


@dataclass(frozen=True)
class ClassificationHead:
    """Names and arithmetic of a family's sequence classification head.

    pooler, output: module names of the dense layer after the first token and of the last linear layer
    pooler_in_encoder: the pooler's name carries the encoder's prefix, so pretrained checkpoints have it too
    """

    pooler: str
    activation: str
    output: str
    pooler_in_encoder: bool = False
    pooler_dropout: bool = False


@dataclass(frozen=True)
class Family:
    """One model type of Hugging Face.

    fields: config.json -> CompactConfig fields of the encoder; raises UserError for what is not supported
    head_dropout: (config.json, head) -> classifier_dropout
    prefix: of the encoder's tensors in checkpoints with a head; bare encoders are saved without it
    embeddings, layer: parameter -> source; `layers` is the path of the layer list
    token_output, qa_output: module names of the heads that read the tokens
    """

    model_type: str
    fields: Callable[[Mapping[str, Any]], dict[str, Any]]
    head_dropout: Callable[[Mapping[str, Any], str], float | None]
    prefix: str
    layers: str
    embeddings: Mapping[str, Source]
    layer: Mapping[str, Source]
    classification: ClassificationHead
    base_pooler: str | None = None
    token_output: str = "classifier"
    qa_output: str = "qa_outputs"

    def sources(self, prefix: str, n_layers: int) -> dict[str, Source]:
        """Source of every parameter the encoder may have; ELECTRA's projection and token types may be absent."""
        table = {f"embeddings.{name}": source.renamed(prefix) for name, source in self.embeddings.items()}
        for i in range(n_layers):
            path = f"{prefix}{self.layers}."
            table |= {f"layers.{i}.{name}": source.renamed(path + f"{i}.") for name, source in self.layer.items()}
        return table


def linear(ours: str, theirs: str) -> dict[str, Source]:
    """Sources of the weight and the bias of one module."""
    return {f"{ours}.{part}": Source((f"{theirs}.{part}",)) for part in ("weight", "bias")}


def reject_unsupported(values: Mapping[str, Any], rules: Mapping[str, Sequence[Any]]) -> None:
    """Raise UserError for the first field whose value is given and not among those supported."""
    for name, supported in rules.items():
        if name in values and values[name] not in supported:
            raise UserError(f"{name}={values[name]!r} of a {values.get('model_type')} model is not supported")


def activation(name: Any) -> str:
    """Our name of a Hugging Face activation. Raises UserError for one the kernels do not have."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UserError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]
