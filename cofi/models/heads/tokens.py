"""The head of token classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from cofi.models.heads.head import Head, drop
from cofi.models.heads.losses import token_loss
from cofi.models.layers import linear

if TYPE_CHECKING:
    from cofi.models.border import Border
    from cofi.models.model import CompactModel
    from cofi.models.packed import PackedBatch


class TokenClassificationHead(Head):
    """A class for each token. Logits are 0 at padding."""

    name = "token_classification"
    outputs = ("logits",)
    of_tokens = True
    module = "classifier"
    is_classifier = True
    architecture = "ForTokenClassification"

    def packed(self, model: CompactModel, x: Tensor, batch: PackedBatch, sites: Tensor | None) -> dict[str, Tensor]:
        assert model.classifier is not None
        return {"logits": linear(drop(model, x, sites, -1), model.classifier)}

    def leave(self, fields: dict[str, Tensor], border: Border) -> dict[str, Tensor]:
        return {"logits": border.leave(fields["logits"])}

    def padded(self, model: CompactModel, states: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        assert model.classifier is not None
        logits = linear(states, model.classifier)
        return {"logits": logits if mask is None else logits.masked_fill_(mask.eq(0)[..., None], 0.0)}

    def loss(self, model: CompactModel, fields: dict[str, Tensor], labels: Tensor) -> Tensor:
        logits = fields["logits"]
        if labels.shape != logits.shape[:-1]:
            shapes = tuple(logits.shape[:-1]), tuple(labels.shape)
            raise ValueError(f"labels must have a number for each token, of shape {shapes[0]}, got {shapes[1]}")
        return token_loss(logits, labels)
