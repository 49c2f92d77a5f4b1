"""Losses of the task heads, as Hugging Face's models of the same task compute them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100  # label of a token that is not predicted, as in transformers


def classification_loss(logits: Tensor, labels: Tensor, *, problem: str) -> Tensor:
    """Loss of the logits (B, C) of the classification head for what it predicts (`CompactConfig.problem`).

    Cross-entropy with labels (B,); for several labels the mean binary cross-entropy with labels (B, C) of 0 and 1; for
    regression the squared error of logits (B, 1) and labels (B,). Computed in fp32 at least.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if problem == "regression":
        _check_shape("labels", labels.view(-1), logits.shape[:1])
        return functional.mse_loss(logits.squeeze(-1), labels.view(-1).to(logits.dtype))
    if problem == "multi_label_classification":
        return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return functional.cross_entropy(logits, labels.view(-1).long())


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits (..., C) and labels (...) over the tokens whose label is not IGNORED, 0 without any.

    Computed in fp32 at least.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    labels = labels.flatten().long()
    total = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def span_loss(start_logits: Tensor, end_logits: Tensor, start_positions: Tensor, end_positions: Tensor) -> Tensor:
    """Mean of the cross-entropies of start and end over the tokens of each sequence.

    logits: (B, S), the lowest finite number where there is no token; positions: (B,) columns. A position outside the
    sequence is left out (answers cut off by truncation); 0 where no example has an answer inside.
    """
    return (_position_loss(start_logits, start_positions) + _position_loss(end_logits, end_positions)) / 2


def _position_loss(logits: Tensor, positions: Tensor) -> Tensor:
    _check_shape("positions", positions.view(-1), logits.shape[:1])
    length, floor = logits.shape[1], lowest(logits)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = positions.view(-1).long().clamp(0, length)
    column = target.clamp(max=length - 1).unsqueeze(1)
    is_token = logits.gather(1, column).squeeze(1) > floor
    target = torch.where(is_token & (target < length), target, length)
    total = functional.cross_entropy(logits, target, ignore_index=length, reduction="sum")
    return total / (target < length).sum().clamp(min=1)


def embedding_loss(embedding: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared distances between rows of two (B, E); of unit vectors 2 (1 - cosine). In fp32 at least."""
    _check_shape("labels", target, embedding.shape)
    return (embedding - target.to(embedding.dtype)).square().sum(1).mean()


def _check_shape(name: str, given: Tensor, wanted: torch.Size) -> None:
    """Others would be broadcast, and give a number."""
    if given.shape != wanted:
        raise ValueError(f"{name} must have shape {tuple(wanted)}, got {tuple(given.shape)}")


def lowest(logits: Tensor) -> float:
    """What stands for the logit of a place without token: a softmax gives it exactly 0."""
    return torch.finfo(logits.dtype).min
