"""Hugging Face's BERT with the weights of a compact model, pruned as CoFi's own results are: eager, by SDPA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cofi.models import CompactModel


class _Nothing(nn.Module):
    """A removed attention sublayer."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        return x, None


def hugging_face(model: CompactModel) -> nn.Module:
    """A BertForSequenceClassification of the same widths, weights, device and dtype."""
    from transformers import BertConfig, BertForSequenceClassification

    ours, word = model.config, model.embeddings.word.weight
    config = {
        "vocab_size": ours.vocab_size,
        "hidden_size": ours.hidden_size,
        "num_hidden_layers": ours.num_hidden_layers,
        "num_attention_heads": 1,  # every layer gets its own below
        "intermediate_size": 1,
        "max_position_embeddings": ours.max_position_embeddings,
        "layer_norm_eps": ours.layer_norm_eps,
        "num_labels": ours.num_labels,
        "attn_implementation": "sdpa",
    }
    theirs: Any = BertForSequenceClassification(BertConfig.from_dict(config))
    for layer, (attention, ffn) in zip(theirs.bert.encoder.layer, _sublayers(model), strict=True):
        _fill_attention(layer, attention, model.layout.head_dim)
        _fill_ffn(layer, ffn)
    tables = theirs.bert.embeddings
    _set(tables.word_embeddings, model.embeddings.word.weight)
    _set(tables.position_embeddings, model.embeddings.position.weight)
    if model.embeddings.token_type is not None:
        _set(tables.token_type_embeddings, model.embeddings.token_type.weight)
    _set(tables.LayerNorm, model.embeddings.norm.weight, model.embeddings.norm.bias)
    for linear, source in ((theirs.bert.pooler.dense, model.pooler), (theirs.classifier, model.classifier)):
        if source is not None:
            _set(linear, source.weight, source.bias)
    return theirs.to(word.device, word.dtype).eval()


def _sublayers(model: CompactModel) -> list[tuple[Any, Any]]:
    return [(layer.attention, layer.ffn) for layer in model.layers]  # type: ignore[union-attr]


def _fill_attention(layer: Any, ours: Any, head_dim: int) -> None:
    if ours is None:
        layer.attention = _Nothing()
        return
    theirs = layer.attention.self
    rows = ours.w_out.shape[0]
    theirs.num_attention_heads, theirs.attention_head_size, theirs.all_head_size = rows // head_dim, head_dim, rows
    theirs.scaling = head_dim**-0.5
    for i, name in enumerate(("query", "key", "value")):
        setattr(theirs, name, _linear(ours.w_qkv[i], ours.b_qkv[i]))
    layer.attention.output.dense = _linear(ours.w_out.t(), ours.b_out)
    _set(layer.attention.output.LayerNorm, ours.norm.weight, ours.norm.bias)


def _fill_ffn(layer: Any, ours: Any) -> None:
    if ours is None:
        layer.feed_forward_chunk = lambda x: x
        return
    layer.intermediate.dense = _linear(ours.w_up, ours.b_up)
    layer.output.dense = _linear(ours.w_down.t(), ours.b_down)
    _set(layer.output.LayerNorm, ours.norm.weight, ours.norm.bias)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0])
    _set(made, weight, bias)
    return made


def _set(module: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    module.weight = nn.Parameter(weight.detach().contiguous().clone(), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)


def run_hugging_face(model: nn.Module, input_ids: Tensor, valid: Tensor | None) -> Tensor:
    with torch.no_grad():
        return model(input_ids=input_ids, attention_mask=None if valid is None else valid.long()).logits
