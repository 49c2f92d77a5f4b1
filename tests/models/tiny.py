"""Small models for the tests: ours, and Hugging Face's of every family with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from cofi.masks import Masks
from cofi.models import CompactConfig, CompactModel

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
MASK_SHAPES: dict[str, tuple[int, ...]] = {"head": (2, 4), "int": (2, 40), "hidden": (24,), "mha": (2,), "ffn": (2,)}
# dropout in every place but the head's own probability, which then is hidden_dropout_prob
DROPS = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "head": "classification"}
TASKS = {
    "base": transformers.AutoModel,
    "classification": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
}


def tiny_config(**changes: Any) -> CompactConfig:
    return CompactConfig(**(SIZES | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} | changes))


def model_of(**changes: Any) -> CompactModel:
    """A tiny CompactModel in eval mode whose every weight, biases and norms too, is random."""
    model = CompactModel(tiny_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_masks(kinds: Iterable[str] = tuple(MASK_SHAPES)) -> Masks:
    """Soft masks for a tiny model, about a third of them 0."""
    shapes = {kind: MASK_SHAPES[kind] for kind in kinds}
    return Masks.from_kinds({k: torch.rand(shape) * (torch.rand(shape) > 0.3) for k, shape in shapes.items()})


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


def edit_config(directory: Path, **changes: Any) -> None:
    """Change fields of a saved config.json; `...` removes one."""
    path = directory / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def edit_weights(directory: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a saved model.safetensors."""
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


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
