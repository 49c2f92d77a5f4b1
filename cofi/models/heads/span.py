"""The head of question answering: the answer is a span of the passage's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from cofi.models.heads.head import Head, drop
from cofi.models.heads.losses import lowest, span_loss
from cofi.models.layers import linear

if TYPE_CHECKING:
    from cofi.models.border import Border
    from cofi.models.model import CompactModel
    from cofi.models.packed import PackedBatch


class QuestionAnsweringHead(Head):
    """Logits of each token to be the first and the last of the answer, the lowest number at padding."""

    name = "question_answering"
    outputs = ("start_logits", "end_logits")
    of_tokens = True
    module = "qa_outputs"
    architecture = "ForQuestionAnswering"

    def width(self, model: CompactModel) -> int:
        return 0

    def packed(self, model: CompactModel, x: Tensor, batch: PackedBatch, sites: Tensor | None) -> dict[str, Tensor]:
        assert model.qa_outputs is not None
        return self._split(linear(drop(model, x, sites, -1), model.qa_outputs))

    def leave(self, fields: dict[str, Tensor], border: Border) -> dict[str, Tensor]:
        return fields if border.slots is None else _fill(fields, border)

    def padded(self, model: CompactModel, states: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        assert model.qa_outputs is not None
        logits = linear(states, model.qa_outputs)
        return self._split(logits if mask is None else logits.masked_fill_(mask.eq(0)[..., None], lowest(logits)))

    def loss_of_spans(self, fields: dict[str, Tensor], border: Border, start: Tensor, end: Tensor) -> Tensor:
        filled = _fill(fields, border)
        return span_loss(filled["start_logits"], filled["end_logits"], start, end)

    def _split(self, logits: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.outputs, logits.unbind(-1), strict=True))


def _fill(fields: dict[str, Tensor], border: Border) -> dict[str, Tensor]:
    """Packed logits (T,) as rows (B, S)."""
    return {name: border.padded(logits, lowest(logits)) for name, logits in fields.items()}
