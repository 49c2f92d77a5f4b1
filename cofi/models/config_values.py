"""What the fields of a configuration may hold. Errors are ValueErrors that name the field, the rule and the value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cofi.models.heads import HEADS

POOLINGS = ("mean", "first")
POOLERS = ("none", "tanh", "relu", "gelu")
ACTIVATIONS = ("gelu", "gelu_new", "relu")
INFERENCE_PRECISIONS = ("fp32", "int8", "bf16")
# short names are accepted beside transformers' own words
PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "single_label_classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "multi_label_classification": "multi_label_classification",
    "regression": "regression",
}
PER_LAYER_FIELDS = ("num_attention_heads", "intermediate_size", "attention_bias_only", "ffn_bias_only")

# Inclusive ranges. The upper ends are far above any encoder in use: they stop a hostile config.json from
# asking for memory, not a user. 256 layers also keeps the dropout sites of a step below SITES_PER_STEP.
_INTEGER_RANGES = {
    "vocab_size": (1, 1 << 24),
    "hidden_size": (1, 1 << 16),
    "num_hidden_layers": (1, 256),
    "num_attention_heads": (0, 1 << 12),
    "head_dim": (1, 1 << 12),
    "intermediate_size": (0, 1 << 20),
    "max_position_embeddings": (1, 1 << 20),
    "position_offset": (0, 1 << 20),
    "type_vocab_size": (0, 1 << 16),
    "embedding_size": (1, 1 << 16),
    "pooler_size": (1, 1 << 16),
    "pad_token_id": (-1, 1 << 24),
    "num_labels": (1, 1 << 20),
    "max_seq_length": (1, 1 << 30),
}
_NUMBER_RANGES = {  # half open
    "hidden_dropout_prob": (0.0, 1.0),
    "attention_probs_dropout_prob": (0.0, 1.0),
    "classifier_dropout": (0.0, 1.0),
    "layer_norm_eps": (1e-30, 1.0),
    "initializer_range": (0.0, 100.0),
}
_OPTIONAL = (
    "head_dim",
    "embedding_size",
    "embedding_projection",
    "pooler_size",
    "pad_token_id",
    "classifier_dropout",
    "max_seq_length",
    "output_hidden_states",
    "return_dict",
)
_CHOICES = {
    "head": tuple(HEADS),
    "pooler": POOLERS,
    "pooling": POOLINGS,
    "hidden_act": ACTIVATIONS,
    "inference_precision": INFERENCE_PRECISIONS,
}
_FLAGS = {
    "attention_bias_only",
    "ffn_bias_only",
    "pooler_dropout",
    "embedding_projection",
    "output_hidden_states",
    "return_dict",
}


def problem_of(problem_type: str | None, num_labels: int | None) -> str:
    """What a classification head predicts, in transformers' words; None is a number for one output, else one class."""
    return problem_type or ("regression" if num_labels == 1 else "single_label_classification")


def check_scalars(fields: Mapping[str, Any]) -> None:
    """Check the fields of a configuration one by one; those in _OPTIONAL may be None."""
    given = {name: value for name, value in fields.items() if value is not None or name not in _OPTIONAL}
    for name in _INTEGER_RANGES.keys() & given.keys():
        _check_integer(name, given[name])
    for name in _NUMBER_RANGES.keys() & given.keys():
        _check_number(name, given[name])
    for name, choices in _CHOICES.items():
        if fields[name] not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {fields[name]!r}")
    for name in _FLAGS & given.keys():
        if not isinstance(given[name], bool):
            raise ValueError(f"{name} must be true or false, got {given[name]!r}")
    if fields["position_offset"] >= fields["max_position_embeddings"]:
        raise ValueError(
            f"position_offset must be below max_position_embeddings ({fields['max_position_embeddings']} rows), "
            f"got {fields['position_offset']}"
        )


def _check_integer(name: str, value: Any, where: str = "") -> None:
    low, high = _INTEGER_RANGES[name]
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{where}{name} must be an integer in [{low}, {high}], got {value!r}")


def _check_number(name: str, value: Any) -> None:
    low, high = _NUMBER_RANGES[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
        raise ValueError(f"{name} must be a number in [{low}, {high}), got {value!r}")


def check_labels(num_labels: Any, id2label: Any) -> None:
    if num_labels is not None:
        _check_integer("num_labels", num_labels)
    if id2label is None:
        return
    if not isinstance(id2label, Mapping):
        raise ValueError(f"id2label must map label numbers to names, got {type(id2label).__name__}")
    _check_integer("num_labels", len(id2label))
    if {str(key) for key in id2label} != {str(i) for i in range(len(id2label))}:
        raise ValueError(
            f"id2label must number its {len(id2label)} labels from 0, got {sorted(map(str, id2label))[:8]}"
        )


def check_per_layer(per_layer: Any, n_layers: int) -> None:
    """Check what a file or a caller gave, before transformers reads it."""
    if per_layer is None:
        return
    if not isinstance(per_layer, Mapping):
        raise ValueError(f"per_layer_config must map layer numbers to fields, got {type(per_layer).__name__}")
    for key, fields in per_layer.items():
        if not str(key).isdecimal() or int(key) >= n_layers:
            raise ValueError(f"per_layer_config must use layer numbers in [0, {n_layers}), got {key!r}")
        if not isinstance(fields, Mapping):
            raise ValueError(f"per_layer_config[{key}] must map fields to values, got {fields!r}")
        unknown = sorted(str(name) for name in fields if name not in PER_LAYER_FIELDS)
        if unknown:
            raise ValueError(f"per_layer_config[{key}] may set {', '.join(PER_LAYER_FIELDS)}, got {', '.join(unknown)}")


def check_layer(fields: Mapping[str, Any], where: str) -> None:
    for units, flag in (("num_attention_heads", "attention_bias_only"), ("intermediate_size", "ffn_bias_only")):
        _check_integer(units, fields[units], where)
        if not isinstance(fields[flag], bool):
            raise ValueError(f"{where}{flag} must be true or false, got {fields[flag]!r}")
        if fields[flag] and fields[units]:
            raise ValueError(f"{where}{flag} needs {units} to be 0, got {fields[units]}")
