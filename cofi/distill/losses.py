"""Prediction distillation: how the student's outputs are compared with the teacher's, by task kind (CoFi section 3.2).

Teacher first: KL(teacher || student) as in the official code; the paper prints it the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Prediction(Protocol):
    """What a model returns: `logits` (B, classes), of regression (B,) or (B, 1), of token classification (T, classes);
    packed `start_logits` and `end_logits` (T,) for question answering; `sentence_embedding` (B, E) for embeddings. The
    others may be None."""

    @property
    def logits(self) -> Tensor | None: ...
    @property
    def start_logits(self) -> Tensor | None: ...
    @property
    def end_logits(self) -> Tensor | None: ...
    @property
    def sentence_embedding(self) -> Tensor | None: ...


class _Tokens(NamedTuple):
    """What is known of the tokens, as `prediction_loss` takes it."""

    cu_seqlens: Tensor | None
    max_seqlen: int | None
    predicted: Tensor | None


def prediction_loss(
    kind: str,
    student: Prediction,
    teacher: Prediction,
    *,
    temperature: float,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    predicted: Tensor | None = None,
) -> Tensor:
    """Distillation loss of the predictions, 0-dim, at least fp32, with a gradient for the student only.

    kind:        name in PREDICTION_LOSSES
    temperature: softens both distributions of a KL; regression and embeddings have no use for it
    cu_seqlens:  (B + 1,) int32, needed for question answering: which of the packed tokens belong together; at most
                 max_seqlen after the last are left out
    max_seqlen:  at least the longest sequence; the default, all tokens, is as right but pads more
    predicted:   bool (T,), of token classification the tokens that count; by default all do
    Raises ValueError for an unknown kind, a temperature that is not positive and where something needed is missing.
    """
    if kind not in PREDICTION_LOSSES:
        raise ValueError(f"kind must be one of {', '.join(PREDICTION_LOSSES)}, got {kind!r}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return PREDICTION_LOSSES[kind](student, teacher, temperature, _Tokens(cu_seqlens, max_seqlen, predicted))


def _classification(student: Prediction, teacher: Prediction, temperature: float, tokens: _Tokens) -> Tensor:
    logits, target = _outputs(student, teacher, "logits")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits must have shape (B, classes) with 2 classes at least, got {tuple(logits.shape)}; "
            "a single output has a constant softmax: distil it as regression"
        )
    return _softened_kl(logits / temperature, target / temperature, temperature)


def _token_classification(student: Prediction, teacher: Prediction, temperature: float, tokens: _Tokens) -> Tensor:
    """As of classification, the mean over the tokens that are predicted; 0 without any."""
    logits, target = _outputs(student, teacher, "logits")
    log_p, log_q = (F.log_softmax(x / temperature, dim=1) for x in (target, logits))
    each = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(1)
    counts = torch.ones_like(each) if tokens.predicted is None else tokens.predicted.to(each.dtype)
    return (each * counts).sum() / counts.sum().clamp(min=1) * temperature**2


def _multi_label(student: Prediction, teacher: Prediction, temperature: float, tokens: _Tokens) -> Tensor:
    """T^2 KL(teacher || student) of independent labels, each there or not: the sum over the classes of a row, the mean
    over rows."""
    logits, target = (x / temperature for x in _outputs(student, teacher, "logits"))
    chance = target.sigmoid()
    there = chance * (F.logsigmoid(target) - F.logsigmoid(logits))
    absent = (1 - chance) * (F.logsigmoid(-target) - F.logsigmoid(-logits))
    return (there + absent).sum(1).mean() * temperature**2


def _regression(student: Prediction, teacher: Prediction, temperature: float, tokens: _Tokens) -> Tensor:
    """Mean squared error. The official code takes the KL here too, which is 0 whatever the student says."""
    return F.mse_loss(*_outputs(student, teacher, "logits"))


def _embedding(student: Prediction, teacher: Prediction, temperature: float, tokens: _Tokens) -> Tensor:
    """Mean of the squared distances, which of unit vectors are 2 (1 - cosine)."""
    embedding, target = _outputs(student, teacher, "sentence_embedding")
    return (embedding - target).square().sum(1).mean()


def _question_answering(student: Prediction, teacher: Prediction, temperature: float, tokens: _Tokens) -> Tensor:
    """Mean over start and end of the KL over each example's own tokens. The official code compares padded rows, whose
    softmax gives weight to positions that no answer can have."""
    if tokens.cu_seqlens is None:
        raise ValueError("cu_seqlens must be given for question answering, got None")
    losses = []
    for name in ("start_logits", "end_logits"):
        logits, target = _outputs(student, teacher, name)
        rows = [_rows(x / temperature, tokens.cu_seqlens, tokens.max_seqlen or x.shape[0]) for x in (logits, target)]
        losses.append(_softened_kl(rows[0], rows[1], temperature))
    return (losses[0] + losses[1]) / 2


PREDICTION_LOSSES: dict[str, Callable[[Prediction, Prediction, float, _Tokens], Tensor]] = {
    "classification": _classification,
    "token_classification": _token_classification,
    "multi_label": _multi_label,
    "regression": _regression,
    "question_answering": _question_answering,
    "embedding": _embedding,
}


def _outputs(student: Prediction, teacher: Prediction, name: str) -> tuple[Tensor, Tensor]:
    """One output of student and teacher, at least fp32, the teacher's detached."""
    found = []
    for who, prediction in (("student", student), ("teacher", teacher)):
        value = getattr(prediction, name, None)
        if value is None:
            raise ValueError(f"{who} must return {name} for this kind of task, got None")
        found.append(value.to(torch.promote_types(value.dtype, torch.float32)))
    if found[0].shape != found[1].shape:
        raise ValueError(
            f"student and teacher must return {name} of one shape, "
            f"got {tuple(found[0].shape)} and {tuple(found[1].shape)}"
        )
    return found[0], found[1].detach()


def _softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher) || softmax(student)), mean over rows; logits (B, N), already divided by T."""
    log_p, log_q = F.log_softmax(teacher, dim=1), F.log_softmax(student, dim=1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2


def _rows(packed: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    """Packed (T,) as (B, max_seqlen), filled with the lowest number, whose probability is exactly 0 beside any logit.

    Rows instead of sums by segment: those would be atomic additions on a GPU, different at every run.
    """
    token = torch.arange(packed.shape[0], device=packed.device, dtype=cu_seqlens.dtype)
    row = torch.searchsorted(cu_seqlens[1:].contiguous(), token, right=True)
    column = token - cu_seqlens[row]
    filled = packed.new_full((cu_seqlens.shape[0], max_seqlen), torch.finfo(packed.dtype).min)
    return filled.index_put((row, column), packed)[:-1]  # of a row more, where padding after the last sequence goes
