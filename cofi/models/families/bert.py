"""BERT, and what RoBERTa and ELECTRA share with it: tensor names, config fields, what is not supported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cofi.models.families.family import ClassificationHead, Family, Source, activation, linear, reject_unsupported
from cofi.models.heads import HEADS

_UNSUPPORTED_UNLESS = {
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
}
_SAME_NAME = {  # field: Hugging Face's default
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "pad_token_id": 0,
}

EMBEDDINGS = {
    "word.weight": Source(("embeddings.word_embeddings.weight",)),
    "position.weight": Source(("embeddings.position_embeddings.weight",)),
    "token_type.weight": Source(("embeddings.token_type_embeddings.weight",)),
    **linear("norm", "embeddings.LayerNorm"),
}
LAYER = {
    "attention.w_qkv": Source(tuple(f"attention.self.{part}.weight" for part in ("query", "key", "value"))),
    "attention.b_qkv": Source(tuple(f"attention.self.{part}.bias" for part in ("query", "key", "value"))),
    "attention.w_out": Source(("attention.output.dense.weight",), transposed=True),
    "attention.b_out": Source(("attention.output.dense.bias",)),
    **linear("attention.norm", "attention.output.LayerNorm"),
    "ffn.w_up": Source(("intermediate.dense.weight",)),
    "ffn.b_up": Source(("intermediate.dense.bias",)),
    "ffn.w_down": Source(("output.dense.weight",), transposed=True),
    "ffn.b_down": Source(("output.dense.bias",)),
    **linear("ffn.norm", "output.LayerNorm"),
}


def encoder_fields(values: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """CompactConfig fields from a BERT-like config.json; `defaults` are where a family's own differ from BERT's."""
    reject_unsupported(values, _UNSUPPORTED_UNLESS)
    fields = {name: values.get(name, default) for name, default in (_SAME_NAME | defaults).items()}
    return fields | {"hidden_act": activation(values.get("hidden_act", "gelu"))}


def head_dropout(values: Mapping[str, Any], head: str) -> float | None:
    """classifier_dropout belongs to classification; these families drop nothing before the QA output."""
    return values.get("classifier_dropout") if HEADS[head].is_classifier else None


BERT = Family(
    model_type="bert",
    fields=encoder_fields,
    head_dropout=head_dropout,
    prefix="bert.",
    layers="encoder.layer",
    embeddings=EMBEDDINGS,
    layer=LAYER,
    classification=ClassificationHead("pooler.dense", "tanh", "classifier", pooler_in_encoder=True),
    base_pooler="pooler.dense",
)
