"""Whole steps of others: Hugging Face's BERT, and the masked model in plain PyTorch, compiled."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

import cofi_kernels
from bench.gpu.bench import Bench, compiled, in_dtype_of
from bench.gpu.training import Training, batch_of
from cofi.train.optim import capturable
from cofi_kernels.masked_layer_norm import reference as norm_reference


class HuggingFace:
    """Forward, backward and AdamW of the dense BERT on labels, without masks, teacher or distillation: the unit.

    captured: with an optimizer whose step a CUDA graph can hold; otherwise it is not to be captured
    """

    def __init__(self, bench: Bench, *, captured: bool) -> None:
        from transformers import BertConfig, BertForSequenceClassification

        s = bench.sizes
        config = {
            "vocab_size": s.vocabulary,
            "hidden_size": s.hidden,
            "num_hidden_layers": s.n_layers,
            "num_attention_heads": s.n_heads,
            "intermediate_size": s.intermediate,
            "num_labels": 3,
        }
        self.model = BertForSequenceClassification(BertConfig.from_dict(config)).train()
        self.model.to(bench.device)  # type: ignore[arg-type]  # transformers annotates the method away
        self.model.bert.embeddings.requires_grad_(False)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        options = capturable(self.trained) if captured else {}
        self.optimizer = torch.optim.AdamW(self.trained, lr=2e-5, **{"fused": True, **options})
        batch = batch_of(bench, s.n_sequences, s.seqlen)
        self.inputs = {"input_ids": batch.packed.input_ids.view(s.n_sequences, s.seqlen), **batch.labels}
        self.autocast = functools.partial(
            torch.autocast, bench.device, torch.bfloat16, enabled=s.dtype == torch.bfloat16
        )

    def __call__(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.model(**self.inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()


def compiled_reference(bench: Bench, training: Training) -> Callable[[], Any]:
    """The same step as ours, distillation and optimizers included, of plain operators that torch.compile may fuse."""
    inputs = training.objective.inputs(training.student, 1, torch.device(bench.device))
    teacher, batch = training.objective.teacher, training.batch
    assert teacher is not None

    def loss() -> Tensor:
        return training.objective.loss(training.student, batch, inputs, teacher(batch), None).total  # type: ignore[arg-type]

    fast = compiled(loss, smoke=bench.smoke)

    def run() -> None:
        training.clear()
        with plain_operators(batch.packed.max_seqlen):
            fast().backward()
            training.optimizers.update()

    return run


def disagreement(training: Training) -> float:
    """Relative difference of our loss and the plain operators' for a model without dropout."""
    inputs = training.objective.inputs(training.student, 1, training.batch.packed.input_ids.device)
    assert training.objective.teacher is not None
    losses = []
    for context in (contextlib.nullcontext(), plain_operators(training.batch.packed.max_seqlen)):
        with context:  # with gradients: without, a model whose weights are fp32 computes in nothing else
            target = training.objective.teacher(training.batch)
            loss = training.objective.loss(training.student, training.batch, inputs, target, None)  # type: ignore[arg-type]
            losses.append(loss.total.detach().item())
    return abs(losses[1] - losses[0]) / abs(losses[0])


@contextlib.contextmanager
def plain_operators(seqlen: int) -> Iterator[None]:
    """Put plain PyTorch in the place of our ops, for sequences of one length; dropout is PyTorch's."""
    replaced = {
        "masked_attention": lambda *args, **kwargs: _attention(seqlen, *args, **kwargs),
        "masked_ffn": _ffn,
        "masked_layer_norm": _layer_norm,
        "counter_dropout": lambda x, p, state: F.dropout(x, p),
        "layer_match": _layer_match,
    }
    with contextlib.ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(mock.patch.object(cofi_kernels, name, function))
        yield


def _times(x: Tensor, *masks: Tensor | None) -> Tensor:
    for mask in masks:
        x = x if mask is None else x * mask.to(x.dtype)
    return x


def _attention(
    seqlen: int,
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    *,
    head_dim: int,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
    dropout_p: float,
    dropout_state: Tensor | None,
) -> Tensor:
    w_qkv, b_qkv, w_out, b_out = in_dtype_of(x, w_qkv, b_qkv, w_out, b_out)
    qkv = F.linear(x, w_qkv.flatten(0, 1), b_qkv.flatten()).view(-1, seqlen, 3, w_out.shape[0] // head_dim, head_dim)
    q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
    context = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p).transpose(1, 2)
    context = _times(context, None if z_head is None else z_head[:, None]).reshape(x.shape[0], -1)
    return _times(torch.addmm(b_out, context, w_out), z_mha, z_hidden)


def _ffn(
    x: Tensor,
    w_up: Tensor,
    b_up: Tensor,
    w_down: Tensor,
    b_down: Tensor,
    *,
    z_int: Tensor | None,
    z_ffn: Tensor | None,
    z_hidden: Tensor | None,
    activation: str,
) -> Tensor:
    w_up, b_up, w_down, b_down = in_dtype_of(x, w_up, b_up, w_down, b_down)
    h = _times(F.gelu(F.linear(x, w_up, b_up)), z_int)
    return _times(torch.addmm(b_down, h, w_down), z_ffn, z_hidden)


def _layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    z_hidden: Tensor | None = None,
    z_layer: Tensor | None = None,
    eps: float,
    dropout_p: float = 0.0,
    dropout_state: Tensor | None = None,
) -> Tensor:
    x = F.dropout(x, dropout_p) if dropout_p else x
    return norm_reference.forward(x, residual, weight, bias, z_hidden, z_layer, eps, 0.0, None)[0]


def _layer_match(
    teacher: list[Tensor],
    student: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    *,
    source: Tensor | None = None,
    n_tokens: Tensor | None = None,
) -> Tensor:
    moved = [F.linear(state, weight, bias).float() for state in student]
    return torch.stack([torch.stack([F.mse_loss(state, target.float()) for state in moved]) for target in teacher])
