"""Launcher of the C++ model: the kernels of `token_embedding`, `compact_encoder` and `first_token_head` in one call.

B sequences of at most S tokens, E hidden, P pooler, C labels. fp32 weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.compact_encoder.packed import PackedEncoder
from cofi_kernels.first_token_head.cpu import ACTIVATION_NUMBERS
from cofi_kernels.native import address, load_native


class EmbeddingWeights(NamedTuple):
    """As `token_embedding` takes them. The first token of a sequence takes row `first_position` of `position`."""

    word: Tensor
    position: Tensor
    token_type: Tensor | None
    norm_weight: Tensor
    norm_bias: Tensor
    eps: float
    first_position: int


class HeadWeights(NamedTuple):
    """As `first_token_head` takes them."""

    w_pooler: Tensor | None
    b_pooler: Tensor | None
    activation: str
    w_out: Tensor | None
    b_out: Tensor | None


class NativeModel:
    """Weights for calls from padded ids to logits.

    They must be contiguous and stay where they are: of the encoder's there is a copy, the others are read at each call.
    """

    def __init__(self, encoder: PackedEncoder, embeddings: EmbeddingWeights, head: HeadWeights) -> None:
        self._weights = (embeddings, head)  # alive as long as the addresses are used
        self._hidden = embeddings.word.shape[1]
        self._pooler, self._labels = _rows(head.w_pooler), _rows(head.w_out)
        self._native = load_native().CompactModel(
            encoder=encoder.native,
            hidden=self._hidden,
            word=embeddings.word.data_ptr(),
            words=embeddings.word.shape[0],
            position=embeddings.position.data_ptr(),
            positions=embeddings.position.shape[0],
            first_position=embeddings.first_position,
            type=address(embeddings.token_type),
            types=_rows(embeddings.token_type),
            norm_weight=embeddings.norm_weight.data_ptr(),
            norm_bias=embeddings.norm_bias.data_ptr(),
            eps=embeddings.eps,
            w_pooler=address(head.w_pooler),
            b_pooler=address(head.b_pooler),
            pooler=self._pooler,
            activation=ACTIVATION_NUMBERS[head.activation],
            w_out=address(head.w_out),
            b_out=address(head.b_out),
            labels=self._labels,
        )

    def __call__(self, ids: Tensor, mask: Tensor | None, types: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
        """pooled (B, P), logits (B, C), states (B, S, E) with zeros at padding; widths of 0 for what is not there.

        ids, mask, types: (B, S) int64, contiguous; mask: nonzero where there is a token, None: everywhere
        None where a sequence has no token or too many, or a number is beyond its table.
        """
        n_rows, length = ids.shape
        shapes = (n_rows, self._pooler), (n_rows, self._labels), (n_rows, length, self._hidden)
        # named, as PyTorch's defaults may be others
        pooled, logits, states = (torch.empty(shape, dtype=torch.float32, device="cpu") for shape in shapes)
        taken = self._native.run(
            ids.data_ptr(),
            address(mask),
            address(types),
            n_rows,
            length,
            pooled.data_ptr(),
            logits.data_ptr(),
            states.data_ptr(),
            torch.get_num_threads(),
        )
        return (pooled, logits, states) if taken else None


def _rows(t: Tensor | None) -> int:
    return 0 if t is None else t.shape[0]
