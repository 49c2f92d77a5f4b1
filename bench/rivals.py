"""The same pruned model in other engines, each in its best configuration: what ours is measured against on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cofi.bench.engines import ONNX_RUNTIME, OPENVINO, OPENVINO_BF16, Engine, exported, not_installed
from cofi.models import CompactModel
from cofi.models.embeddings import Embeddings
from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder.layout import LAYER_WEIGHTS, N_ATTENTION_WEIGHTS

Logits = Callable[[Tensor, Tensor], Tensor]  # input_ids, attention_mask (B, S) -> logits


def sublayers(weights: list[Tensor], i: int) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of layer i: of its attention and of its FFN, each two of w and b, then its norm's."""
    layer = weights[i * len(LAYER_WEIGHTS) : (i + 1) * len(LAYER_WEIGHTS)]
    return layer[:N_ATTENTION_WEIGHTS], layer[N_ATTENTION_WEIGHTS:]


def padded_encoder(x: Tensor, valid: Tensor | None, weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    """(B, S, E) through every layer, padding and all, as modelling code for PyTorch is written."""
    for i, n_heads in enumerate(layout.heads):
        attention, ffn = sublayers(weights, i)
        if layout.mha[i]:
            w_qkv, b_qkv, w_out, b_out, w_norm, b_norm = attention
            qkv = (F.linear(x, w_qkv[part], b_qkv[part]) for part in range(3))
            q, k, v = (part.unflatten(2, (n_heads, layout.head_dim)).transpose(1, 2) for part in qkv)
            context = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
            y = context.transpose(1, 2).flatten(2) @ w_out + b_out
            x = F.layer_norm(x + y, x.shape[2:], w_norm, b_norm, layout.eps)
        if layout.ffn[i]:
            w_up, b_up, w_down, b_down, w_norm, b_norm = ffn
            y = F.gelu(F.linear(x, w_up, b_up)) @ w_down + b_down
            x = F.layer_norm(x + y, x.shape[2:], w_norm, b_norm, layout.eps)
    return x


def embedded(tables: Embeddings, ids: Tensor, positions: Tensor) -> Tensor:
    """Tokens of the first kind, normalised."""
    assert tables.token_type is not None
    x = tables.word(ids) + tables.position(positions) + tables.token_type.weight[0]
    return F.layer_norm(x, x.shape[-1:], tables.norm.weight, tables.norm.bias, tables.eps)


class PaddedModel(nn.Module):
    """A classifier's weights in plain PyTorch: embeddings, `padded_encoder`, pooler, classifier."""

    def __init__(self, model: CompactModel) -> None:
        super().__init__()
        assert model.pooler is not None and model.classifier is not None
        self.embeddings, self.pooler, self.classifier = model.embeddings, model.pooler, model.classifier
        self.layout = model.layout
        self.encoder = model.encoder_weights()

    def forward(self, input_ids: Tensor, valid: Tensor | None) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = padded_encoder(embedded(self.embeddings, input_ids, positions), valid, self.encoder, self.layout)
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


def _eager(model: CompactModel) -> Logits:
    padded = PaddedModel(model).eval()
    return lambda ids, mask: padded(ids, _valid(mask))


def _compiled(model: CompactModel) -> Logits:
    """What was compiled for other models is dropped: after eight shapes of a function PyTorch runs it in eager code."""
    torch.compiler.reset()
    padded = torch.compile(PaddedModel(model).eval(), dynamic=False)
    return lambda ids, mask: padded(ids, _valid(mask))


def _valid(mask: Tensor) -> Tensor | None:
    """No mask where there is no padding: attention is faster without."""
    return None if bool(mask.all()) else mask[:, None, None, :].bool()


def _in_engine(model: CompactModel, engine: Engine) -> Logits:
    with exported(model) as file:
        prepare = engine.load(file)
    return lambda ids, mask: prepare(ids, mask)()


@dataclass(frozen=True)
class Rival:
    """An engine: what makes it of a model, packages it needs, and what it computes in."""

    make: Callable[[CompactModel], Logits]
    needs: tuple[str, ...] = ()
    precision: str = "fp32"

    @property
    def missing(self) -> list[str]:
        return not_installed(self.needs)


def _rival(engine: Engine, precision: str = "fp32") -> Rival:
    return Rival(functools.partial(_in_engine, engine=engine), engine.needs, precision)


RIVALS = {
    "eager": Rival(_eager),
    "compile": Rival(_compiled),
    "onnxruntime": _rival(ONNX_RUNTIME),
    "openvino": _rival(OPENVINO),
    "openvino bf16": _rival(OPENVINO_BF16, "bf16"),
}
