"""DistilBERT: BERT without token types and pooler, with names of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cofi.models.families.family import ClassificationHead, Family, Source, activation, linear, reject_unsupported

_FIELDS = {  # ours: (Hugging Face's name, Hugging Face's default)
    "vocab_size": ("vocab_size", 30522),
    "hidden_size": ("dim", 768),
    "num_hidden_layers": ("n_layers", 6),
    "num_attention_heads": ("n_heads", 12),
    "intermediate_size": ("hidden_dim", 3072),
    "hidden_dropout_prob": ("dropout", 0.1),
    "attention_probs_dropout_prob": ("attention_dropout", 0.1),
    "max_position_embeddings": ("max_position_embeddings", 512),
    "initializer_range": ("initializer_range", 0.02),
    "pad_token_id": ("pad_token_id", 0),
}
_HEAD_DROPOUTS = {"classification": ("seq_classif_dropout", 0.2), "question_answering": ("qa_dropout", 0.1)}


def _fields(values: Mapping[str, Any]) -> dict[str, Any]:
    reject_unsupported(
        values, {"is_decoder": (False, None), "pruned_heads": ({}, None), "quantization_config": (None,)}
    )
    fields = {ours: values.get(theirs, default) for ours, (theirs, default) in _FIELDS.items()}
    act = activation(values.get("activation", "gelu"))
    return fields | {"hidden_act": act, "type_vocab_size": 0, "layer_norm_eps": 1e-12}


def _head_dropout(values: Mapping[str, Any], head: str) -> float | None:
    if head not in _HEAD_DROPOUTS:
        return None
    return values.get(*_HEAD_DROPOUTS[head])


DISTILBERT = Family(
    model_type="distilbert",
    fields=_fields,
    head_dropout=_head_dropout,
    prefix="distilbert.",
    layers="transformer.layer",
    embeddings={
        "word.weight": Source(("embeddings.word_embeddings.weight",)),
        "position.weight": Source(("embeddings.position_embeddings.weight",)),
        **linear("norm", "embeddings.LayerNorm"),
    },
    layer={
        "attention.w_qkv": Source(tuple(f"attention.{part}_lin.weight" for part in "qkv")),
        "attention.b_qkv": Source(tuple(f"attention.{part}_lin.bias" for part in "qkv")),
        "attention.w_out": Source(("attention.out_lin.weight",), transposed=True),
        "attention.b_out": Source(("attention.out_lin.bias",)),
        **linear("attention.norm", "sa_layer_norm"),
        "ffn.w_up": Source(("ffn.lin1.weight",)),
        "ffn.b_up": Source(("ffn.lin1.bias",)),
        "ffn.w_down": Source(("ffn.lin2.weight",), transposed=True),
        "ffn.b_down": Source(("ffn.lin2.bias",)),
        **linear("ffn.norm", "output_layer_norm"),
    },
    classification=ClassificationHead("pre_classifier", "relu", "classifier"),
)
