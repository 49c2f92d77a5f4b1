"""What reads the first token: the head of sequence classification, and a pooler without a head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

import cofi_kernels
from cofi.models.heads.head import Head, drop
from cofi.models.heads.losses import classification_loss
from cofi.models.layers import is_plain_linear, linear
from cofi_kernels.first_token_head.reference import ACTIVATIONS

if TYPE_CHECKING:
    from cofi.models.model import CompactModel
    from cofi.models.packed import PackedBatch


class _FirstTokenHead(Head):
    """A pooler and a classifier, each of which a model may lack."""

    has_pooler = True

    def packed(self, model: CompactModel, x: Tensor, batch: PackedBatch, sites: Tensor | None) -> dict[str, Tensor]:
        fields: dict[str, Tensor] = {}
        if model.pooler is None and model.classifier is None:
            return fields
        plain = all(m is None or is_plain_linear(m) for m in (model.pooler, model.classifier))
        if sites is None and plain and not torch.is_grad_enabled():
            return _infer(model, x, batch)
        features = x[batch.bounds[:-1].long()]
        if model.pooler is not None:
            features = drop(model, features, sites, -2) if model.config.pooler_dropout else features
            features = ACTIVATIONS[model.config.pooler](linear(features, model.pooler))
            fields["pooler_output"] = features
        if model.classifier is not None:
            fields["logits"] = linear(drop(model, features, sites, -1), model.classifier)
        return fields


class NoHead(_FirstTokenHead):
    """The encoder alone, which may have its pooler."""

    name = "none"


class ClassificationHead(_FirstTokenHead):
    """A class, several labels or a number for each sequence."""

    name = "classification"
    outputs = ("logits",)
    module = "classifier"
    is_classifier = True
    architecture = "ForSequenceClassification"

    def loss(self, model: CompactModel, fields: dict[str, Tensor], labels: Tensor) -> Tensor:
        return classification_loss(fields["logits"], labels, problem=model.config.problem)


def _infer(model: CompactModel, x: Tensor, batch: PackedBatch) -> dict[str, Tensor]:
    """What pooler and classifier give, as one kernel."""
    pooler, classifier = model.pooler, model.classifier
    pooled, logits = cofi_kernels.first_token_head(
        x,
        batch.bounds,
        *((None, None) if pooler is None else (pooler.weight, pooler.bias)),
        *((None, None) if classifier is None else (classifier.weight, classifier.bias)),
        activation="tanh" if pooler is None else model.config.pooler,
    )
    fields = {} if pooler is None else {"pooler_output": pooled}
    return fields if classifier is None else fields | {"logits": logits}
