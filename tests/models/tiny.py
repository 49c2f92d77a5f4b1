"""Small models for the tests: ours, and Hugging Face's of every family with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from cofi.models import CompactConfig

SIZES = {
    "vocab_size": 97,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
DISTILBERT_SIZES = {
    "vocab_size": 97,
    "dim": 24,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 40,
    "max_position_embeddings": 40,
}
# model type: what its config takes; odd values where a family has some of its own
HF_SIZES: dict[str, dict[str, Any]] = {
    "bert": {**SIZES, "hidden_act": "gelu_new"},
    "roberta": {**SIZES, "pad_token_id": 3, "layer_norm_eps": 1e-5},
    "xlm-roberta": {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "distilbert": {**DISTILBERT_SIZES, "activation": "relu", "sinusoidal_pos_embds": True},
    "electra": {**SIZES, "embedding_size": 16},
}
TASKS = {
    "base": transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
}


def tiny_config(**changes: Any) -> CompactConfig:
    return CompactConfig(**(SIZES | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | changes))


def hf_config(model_type: str, **changes: Any) -> transformers.PreTrainedConfig:
    return transformers.AutoConfig.for_model(model_type, **(HF_SIZES[model_type] | changes))


def hf_model(model_type: str, task: str, **changes: Any) -> transformers.PreTrainedModel:
    """Random weights far from their small initial values, so that a wrong place or sign shows."""
    model = TASKS[task].from_config(hf_config(model_type, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 0.3 * torch.randn_like(parameter)
            parameter.copy_(1 + spread if "norm" in name.lower() and name.endswith("weight") else spread)
    return model


def hf_directory(directory: Path, model_type: str, task: str, **changes: Any) -> transformers.PreTrainedModel:
    model = hf_model(model_type, task, **changes)
    model.save_pretrained(directory)
    return model


def padded_inputs(vocab: int = 97, types: int = 2) -> dict[str, Tensor]:
    """Three rows of 9, 6 and 1 tokens, padded on the right; token types where the family has them."""
    ids = torch.randint(5, vocab, (3, 9))
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] + [0] * 8])
    inputs = {"input_ids": ids, "attention_mask": mask}
    if types:
        inputs["token_type_ids"] = torch.randint(0, types, ids.shape)
    return inputs


def flipped(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same sequences padded on the left: every row is rolled until its padding comes first."""
    shifts = (inputs["attention_mask"] == 0).sum(1).tolist()
    return {
        name: torch.stack([row.roll(shift) for row, shift in zip(value, shifts, strict=True)])
        for name, value in inputs.items()
    }
