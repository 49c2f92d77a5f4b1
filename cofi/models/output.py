"""What the model returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class CompactOutput(ModelOutput):
    """Output of `CompactModel`; fields that do not apply are None.

    Token-wise fields are (B, S, ...) for padded input, zero at padding, and (T, ...) for a `PackedBatch`.

    loss:              scalar, when labels were given
    logits:            (B, num_labels) of the classification head; token-wise of the token classification head
    start_logits, end_logits: (B, S) or (T,) of the question answering head; the lowest finite number at padding
    sentence_embedding: (B, E) of the embedding head, of unit length
    last_hidden_state: (B, S, E) or (T, E); the first of them without a head, as in transformers
    pooler_output:     (B, pooler_size)
    hidden_states:     num_hidden_layers + 1 of the same shape: the embeddings, then after each layer
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    sentence_embedding: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
