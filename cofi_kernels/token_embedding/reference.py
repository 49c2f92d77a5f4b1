"""Token embeddings in plain PyTorch: the definition every backend reproduces. Inference only."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def forward(
    ids: Tensor,
    positions: Tensor,
    types: Tensor | None,
    word: Tensor,
    position: Tensor,
    token_type: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
) -> Tensor:
    """Returns LayerNorm(word[ids] + position[positions] + token_type[types]), (T, E)."""
    x = F.embedding(ids, word) + F.embedding(positions, position)
    if types is not None and token_type is not None:
        x = x + F.embedding(types, token_type)
    return F.layer_norm(x, x.shape[1:], weight, bias, eps)
