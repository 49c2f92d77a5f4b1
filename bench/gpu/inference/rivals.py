"""The same model in other engines. A new one is a function here and a line in RIVALS."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.gpu.inference import onnx_runtime
from bench.gpu.inference.hugging_face import hugging_face, run_hugging_face
from bench.gpu.inference.subject import Subject
from bench.rivals import PaddedModel, embedded, sublayers
from cofi.models import CompactModel

Logits = Callable[[], Tensor]  # (B, C)
N_GROUPS = 8  # of sentences of like length, each padded to its longest: less padding, more launches


class Rival(NamedTuple):
    """make: a call that gives the logits; captured: replayed as a graph when it is timed.

    compiles: it compiles first, for so many seconds (guessed; measured ones take their place)
    why_not:  why it cannot run a subject, or None
    """

    make: Callable[[Subject], Logits]
    captured: bool
    compiles: float = 0.0
    why_not: Callable[[Subject], str | None] = lambda subject: None


def _eager(subject: Subject) -> Logits:
    model, batch = hugging_face(subject.model), subject.batch
    return lambda: run_hugging_face(model, batch.input_ids, batch.valid)


def _plain(subject: Subject) -> Logits:
    """Plain PyTorch on padded sentences, in groups of like length where lengths differ."""
    model = PaddedModel(subject.model).eval()
    if subject.batch.valid is None:
        return torch.no_grad()(lambda: model(subject.batch.input_ids, None))
    order = torch.tensor(subject.batch.lengths).argsort()
    groups = []
    for rows in order.tensor_split(min(N_GROUPS, len(order))):
        longest = int(torch.tensor(subject.batch.lengths)[rows].max())
        rows = rows.to(subject.device)
        ids, valid = (t[rows][:, :longest].contiguous() for t in (subject.batch.input_ids, subject.batch.valid))
        groups.append((ids, valid[:, None, None, :]))
    back = order.argsort().to(subject.device)
    return torch.no_grad()(lambda: torch.cat([model(ids, valid) for ids, valid in groups])[back])


class PackedModel(nn.Module):
    """A classifier in plain PyTorch on packed tokens: q, k, v as one product, PyTorch's own attention of that form."""

    def __init__(self, model: CompactModel) -> None:
        super().__init__()
        assert model.pooler is not None and model.classifier is not None
        self.embeddings, self.pooler, self.classifier = model.embeddings, model.pooler, model.classifier
        self.layout, self.encoder = model.layout, model.encoder_weights()
        self.attend = importlib.import_module("torch.nn.attention.varlen").varlen_attn

    def forward(self, ids: Tensor, positions: Tensor, cu_seqlens: Tensor, longest: int) -> Tensor:
        layout, x = self.layout, embedded(self.embeddings, ids, positions)
        for i, n_heads in enumerate(layout.heads):
            attention, ffn = sublayers(self.encoder, i)
            if layout.mha[i]:
                w_qkv, b_qkv, w_out, b_out, w_norm, b_norm = attention
                qkv = F.linear(x, w_qkv.flatten(0, 1), b_qkv.flatten()).view(-1, 3, n_heads, layout.head_dim)
                context = self.attend(*qkv.unbind(1), cu_seqlens, cu_seqlens, longest, longest)
                y = torch.addmm(b_out, context.flatten(1), w_out)
                x = F.layer_norm(x + y, x.shape[1:], w_norm, b_norm, layout.eps)
            if layout.ffn[i]:
                w_up, b_up, w_down, b_down, w_norm, b_norm = ffn
                y = torch.addmm(b_down, F.gelu(F.linear(x, w_up, b_up)), w_down)
                x = F.layer_norm(x + y, x.shape[1:], w_norm, b_norm, layout.eps)
        return self.classifier(torch.tanh(self.pooler(x[cu_seqlens[:-1]])))


def _packed(subject: Subject) -> Logits:
    return _on_packed(PackedModel(subject.model).eval(), subject)


def _on_packed(model: Any, subject: Subject) -> Logits:
    b = subject.batch.packed
    return torch.no_grad()(lambda: model(b.input_ids, b.position_ids, b.cu_seqlens, b.max_seqlen))


def _compiled(**options: Any) -> Callable[[Subject], Logits]:
    """Compiled for the sizes of the batch: padded where all are of one length, packed otherwise."""

    def make(subject: Subject) -> Logits:
        torch._dynamo.reset()  # what earlier sizes left would count against the limit of recompilations
        settings: dict[str, Any] = {"backend": "aot_eager"} if subject.smoke else options
        if subject.batch.valid is not None:
            return _on_packed(torch.compile(PackedModel(subject.model).eval(), dynamic=False, **settings), subject)
        model = torch.compile(PaddedModel(subject.model).eval(), dynamic=False, **settings)
        return torch.no_grad()(lambda: model(subject.batch.input_ids, None))

    return make


def _no_varlen(subject: Subject) -> str | None:
    if subject.device.type != "cuda":
        return "PyTorch attends to packed tokens on a GPU only"
    try:
        importlib.import_module("torch.nn.attention.varlen")
    except ImportError:
        return "this PyTorch has no torch.nn.attention.varlen"
    return None


def _no_varlen_where_needed(subject: Subject) -> str | None:
    return None if subject.batch.valid is None else _no_varlen(subject)


RIVALS: dict[str, Rival] = {
    "HF eager": Rival(_eager, captured=False),
    "eager": Rival(_plain, captured=False),
    "eager, graph": Rival(_plain, captured=True),
    "packed, graph": Rival(_packed, captured=True, why_not=_no_varlen),
    "ORT CUDA": Rival(onnx_runtime.make, captured=False, compiles=15.0, why_not=onnx_runtime.why_not),
    "compile, graph": Rival(_compiled(), captured=True, compiles=25.0, why_not=_no_varlen_where_needed),
    "max-autotune, graph": Rival(
        _compiled(mode="max-autotune-no-cudagraphs"), True, compiles=60.0, why_not=_no_varlen_where_needed
    ),
}
