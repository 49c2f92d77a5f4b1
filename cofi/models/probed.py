"""Gradients of the masks of heads and dims for every sequence of a batch on its own, in one backward.

An op of cofi_kernels sums the gradient of a mask over all tokens, so each sequence would need a batch of its own (MRPC,
MiniLM, one core: 4 to 6 times as slow). Here the two products of a sublayer stand apart, in plain PyTorch; the gradient
at what a mask multiplies, summed over a sequence's tokens, is that sequence's. Units that are off are not computed.

B sequences, T packed tokens, S padded length, L layers, H heads, D head dim, E hidden, I intermediate.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofi_kernels
from cofi.models.heads import IGNORED
from cofi.models.layers import Attention, FeedForward, is_skipped
from cofi.models.model import CompactModel
from cofi.models.packed import PackedBatch
from cofi_kernels.masked_attention.reference import scores_of
from cofi_kernels.masked_ffn.activations import get_activation
from cofi_kernels.masking import times
from cofi_kernels.packing import pad, token_index, unpad

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cofi.masks.masks import LayerMasks, Masks
    from cofi.models.layers import EncoderLayer


class _Probe(nn.Module):
    """A sublayer's units that are on, and what they gave in the last call: before their mask, and behind it."""

    def __init__(self, z: Tensor) -> None:
        """z (units,): the mask they are under."""
        super().__init__()
        self.n_units = z.numel()
        self.on = z.nonzero()[:, 0]
        self.z = z[self.on]
        self.before: Tensor | None = None
        self.behind: Tensor | None = None

    def masked(self, units: Tensor) -> Tensor:
        """units (T, units that are on, values of each)."""
        self.before = units.detach()
        behind = units * self.z[:, None]
        self.behind = behind if behind.requires_grad else behind.requires_grad_()
        return self.behind

    def by_sequence(self, gradient: Tensor | None, member: Tensor) -> Tensor:
        """(B, units) from the gradient at `behind`; member (B, T) has 1 where a token is of the sequence."""
        found = member.new_zeros(member.shape[0], self.n_units)
        if gradient is not None and self.before is not None:
            found[:, self.on] = member @ (gradient * self.before).sum(-1)
        self.before = self.behind = None
        return found


class _ProbedAttention(nn.Module):
    def __init__(self, attention: Attention, z_head: Tensor) -> None:
        super().__init__()
        self.probe = _Probe(z_head)
        self.head_dim, self.norm, self.eps = attention.head_dim, attention.norm, attention.eps
        rows = (self.probe.on[:, None] * self.head_dim + torch.arange(self.head_dim, device=z_head.device)).flatten()
        self.w_qkv, self.b_qkv = attention.w_qkv[:, rows].flatten(0, 1), attention.b_qkv[:, rows].flatten()
        self.w_out, self.b_out = attention.w_out[rows], attention.b_out

    def forward(self, x: Tensor, batch: PackedBatch, masks: LayerMasks, _: None) -> Tensor:
        if is_skipped(masks.z_mha):
            return x
        qkv = F.linear(x, self.w_qkv, self.b_qkv).view(x.shape[0], 3, -1, self.head_dim)
        q, k, v = (pad(part, batch.cu_seqlens, batch.max_seqlen).transpose(1, 2) for part in qkv.unbind(1))
        p = scores_of(q, k, batch.cu_seqlens).softmax(-1)  # (B, H, S, S)
        context = unpad((p @ v).transpose(1, 2), batch.cu_seqlens, x.shape[0])
        y = self.probe.masked(context).flatten(1) @ self.w_out + self.b_out
        return _normed(self, times(y, masks.z_mha, masks.z_hidden), x, masks.z_mha, masks.z_hidden)


class _ProbedFeedForward(nn.Module):
    def __init__(self, ffn: FeedForward, z_int: Tensor) -> None:
        super().__init__()
        self.probe = _Probe(z_int)
        self.activation, self.norm, self.eps = get_activation(ffn.activation).function, ffn.norm, ffn.eps
        rows = self.probe.on
        self.w_up, self.b_up, self.w_down, self.b_down = ffn.w_up[rows], ffn.b_up[rows], ffn.w_down[rows], ffn.b_down

    def forward(self, x: Tensor, masks: LayerMasks, _: None) -> Tensor:
        if is_skipped(masks.z_ffn):
            return x
        h = self.activation(F.linear(x, self.w_up, self.b_up))
        y = self.probe.masked(h[..., None]).squeeze(-1) @ self.w_down + self.b_down
        return _normed(self, times(y, masks.z_ffn, masks.z_hidden), x, masks.z_ffn, masks.z_hidden)


def _normed(
    sublayer: _ProbedAttention | _ProbedFeedForward,
    y: Tensor,
    residual: Tensor,
    z_layer: Tensor | None,
    z_hidden: Tensor | None,
) -> Tensor:
    norm = sublayer.norm
    return cofi_kernels.masked_layer_norm(
        y, residual, norm.weight, norm.bias, z_hidden=z_hidden, z_layer=z_layer, eps=sublayer.eps
    )


class ProbedModel:
    """A model under fixed masks that says, for each sequence, what its own loss asks of every head and dim."""

    def __init__(self, model: CompactModel, masks: Masks) -> None:
        """model: with layers of one size, copied. masks: of heads and intermediate dims at least."""
        masks.check(model.config.shape())
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.masks = masks.detach()
        each = zip(cast("Iterable[EncoderLayer]", self.model.layers), masks.layers(len(model.layers)), strict=True)
        self.probes: dict[str, list[_Probe]] = {"head": [], "int": []}
        for layer, of_layer in each:
            assert of_layer.z_head is not None and of_layer.z_int is not None
            attention = _ProbedAttention(cast(Attention, layer.attention), of_layer.z_head)
            ffn = _ProbedFeedForward(cast(FeedForward, layer.ffn), of_layer.z_int)
            layer.attention, layer.ffn = attention, ffn  # type: ignore[assignment]
            self.probes["head"].append(attention.probe)
            self.probes["int"].append(ffn.probe)

    @torch.no_grad()
    def embeddings(self, batch: PackedBatch) -> Tensor:
        """Those of an embedding head (B, E)."""
        embedding = self.model(batch=batch, masks=self.masks).sentence_embedding
        assert embedding is not None
        return embedding

    def gradients(self, batch: PackedBatch, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Gradients of each sequence's loss in the masks: "head" (B, L, H) and "int" (B, L, I); 0 for a unit that is
        off, or in a sublayer that is. Of token classification a sequence's loss is the sum over its tokens.

        labels: of the model's head; the spans of question answering lie inside their sequence.
        """
        n_sequences = batch.cu_seqlens.shape[0] - 1
        of_tokens = self.model.head.of_tokens and "labels" in labels
        count = (labels["labels"] != IGNORED).sum() if of_tokens else n_sequences
        loss = self.model(batch=batch, masks=self.masks, **labels).loss * count  # a mean of theirs
        seen = [(probe, probe.behind) for probes in self.probes.values() for probe in probes]
        reached = [behind for _, behind in seen if behind is not None]
        found = iter(torch.autograd.grad(loss, reached, allow_unused=True) if reached else ())
        gradients = {id(probe): None if behind is None else next(found) for probe, behind in seen}
        sequence = token_index(batch.cu_seqlens, batch.input_ids.shape[0]).sequence
        member = (sequence == torch.arange(n_sequences, device=sequence.device)[:, None]).to(loss.dtype)
        return {
            kind: torch.stack([probe.by_sequence(gradients[id(probe)], member) for probe in probes], dim=1)
            for kind, probes in self.probes.items()
        }
