"""The head without weights: the embedding of a sentence, as Sentence Transformers computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from cofi.models.heads.head import Head
from cofi.models.heads.losses import embedding_loss
from cofi.models.packed import pad_packed

if TYPE_CHECKING:
    from cofi.models.model import CompactModel
    from cofi.models.packed import PackedBatch


class EmbeddingHead(Head):
    """The mean of the tokens' states or the first one's, of unit length."""

    name = "embedding"
    outputs = ("sentence_embedding",)

    def width(self, model: CompactModel) -> int:
        return int(model.config.hidden_size)

    def packed(self, model: CompactModel, x: Tensor, batch: PackedBatch, sites: Tensor | None) -> dict[str, Tensor]:
        lengths = batch.bounds.diff()
        rows = pad_packed(x, batch.cu_seqlens, batch.max_seqlen)[: len(lengths)]
        return {"sentence_embedding": sentence_embedding(rows, lengths, model.config.pooling)}

    def padded(self, model: CompactModel, states: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        mask = states.new_ones(states.shape[:2]) if mask is None else mask
        if model.config.pooling == "first":  # whichever side the padding is on
            first = mask.ne(0).to(torch.uint8).argmax(1)
            states = states.gather(1, first[:, None, None].expand(-1, 1, states.shape[2]))
        return {"sentence_embedding": sentence_embedding(states, mask.ne(0).sum(1), model.config.pooling)}

    def loss(self, model: CompactModel, fields: dict[str, Tensor], labels: Tensor) -> Tensor:
        return embedding_loss(fields["sentence_embedding"], labels)


def sentence_embedding(rows: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """Unit vectors (B, E), in fp32 at least, of the states of B sentences.

    rows: (B, S, E), zeros where there is no token. lengths: (B,), tokens of each. pooling: "mean" of the tokens' states
    or the "first" token's, which is then the first row.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    features = rows[:, 0] if pooling == "first" else rows.sum(1) / lengths.clamp(min=1)[:, None]
    return functional.normalize(features, dim=1)
