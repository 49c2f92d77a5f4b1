"""RoBERTa and XLM-RoBERTa: BERT whose positions start behind the padding index, with a two-layer head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cofi.errors import UserError
from cofi.models.families.bert import BERT, encoder_fields
from cofi.models.families.family import ClassificationHead


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = encoder_fields(values, vocab_size=50265, pad_token_id=1)
    padding = fields["pad_token_id"]
    if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
        raise UserError(f"pad_token_id must be a token number, from which positions count, got {padding!r}")
    return fields | {"position_offset": padding + 1}


ROBERTA = replace(
    BERT,
    model_type="roberta",
    fields=_fields,
    prefix="roberta.",
    classification=ClassificationHead("classifier.dense", "tanh", "classifier.out_proj", pooler_dropout=True),
)
XLM_ROBERTA = replace(ROBERTA, model_type="xlm-roberta")
