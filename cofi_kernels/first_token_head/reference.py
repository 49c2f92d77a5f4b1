"""Pooler and classifier in plain PyTorch: the definition every backend reproduces. Inference only."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "gelu": F.gelu, "relu": torch.relu}


def forward(
    x: Tensor,
    bounds: Tensor,
    w_pooler: Tensor | None,
    b_pooler: Tensor | None,
    activation: str,
    w_out: Tensor | None,
    b_out: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Returns pooled (B, P) and logits (B, C), of size zero where their weights are None."""
    features = x[bounds[:-1].long()]
    pooled = logits = x.new_empty((features.shape[0], 0))
    if w_pooler is not None:
        features = pooled = ACTIVATIONS[activation](F.linear(features, w_pooler, b_pooler))
    if w_out is not None:
        logits = F.linear(features, w_out, b_out)
    return pooled, logits
