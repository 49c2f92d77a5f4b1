"""ELECTRA discriminators: BERT whose tables may be narrower than the encoder, no pooler, a two-layer GELU head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cofi.models.families.bert import BERT, EMBEDDINGS, encoder_fields
from cofi.models.families.family import ClassificationHead, linear


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = encoder_fields(values, hidden_size=256, num_attention_heads=4, intermediate_size=1024)
    return fields | {"embedding_size": values.get("embedding_size", 128)}


ELECTRA = replace(
    BERT,
    model_type="electra",
    fields=_fields,
    prefix="electra.",
    embeddings={**EMBEDDINGS, **linear("projection", "embeddings_project")},
    classification=ClassificationHead("classifier.dense", "gelu", "classifier.out_proj", pooler_dropout=True),
    base_pooler=None,
)
