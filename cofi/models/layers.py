"""Embeddings and encoder layers as calls of cofi_kernels, in the order of the masked BERT of CoFi.

T packed tokens, E hidden, H heads, D head dim, I intermediate. Method: Xia, Zhong, Chen, ACL 2022, section 3.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cofi_kernels
from cofi.models.packed import PackedBatch

if TYPE_CHECKING:
    from cofi.masks.masks import LayerMasks
    from cofi.models.config import CompactConfig

SITES_PER_LAYER = 3  # attention probabilities, attention output, FFN output
WEIGHTS_PER_SUBLAYER = 6  # as compact_encoder counts them


def _tensors(module: nn.Module, names: tuple[str, ...]) -> list[Tensor]:
    """Parameters by name, past Module.__getattr__: at every call of a pruned model it took 30 of 500 us."""
    found = module._parameters
    return [cast(Tensor, found[name]) for name in names]


def is_skipped(z_layer: Tensor | None) -> bool:
    """Whether a sublayer is masked out and the host may know: its ops would give the identity, and zeros for gradients.

    Skipped, its weights get no gradient at all. On a GPU the mask is not read, and the ops decide on the device.
    """
    if type(z_layer) is not Tensor or z_layer.device.type != "cpu" or torch.compiler.is_compiling():
        return False  # a tensor of another type, as tracing uses, may hold no value
    return z_layer.item() == 0.0


def linear(x: Tensor, module: nn.Linear) -> Tensor:
    """What `module` gives, in x's dtype: its parameters may be fp32 masters, as those of the kernels."""
    if type(module) is not nn.Linear or module.weight.dtype == x.dtype:  # a quantized one has no such parameters
        return cast(Tensor, module(x))
    return F.linear(x, module.weight.to(x.dtype), None if module.bias is None else module.bias.to(x.dtype))


def is_plain_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether its weight and bias say all of what it computes: a subclass (an adapter, a quantized one) may do more."""
    return type(module) is nn.Linear and module.bias is not None


def is_plain_table(module: nn.Module | None) -> bool:
    """The same of an embedding; without one there is nothing else to compute either."""
    return module is None or (type(module) is nn.Embedding and module.max_norm is None)


class Norm(nn.Module):
    """Weight and bias of a LayerNorm; the arithmetic is in masked_layer_norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))


class Attention(nn.Module):
    """Self-attention sublayer: y = norm(dropout(attention(x)) + x). Head h owns rows h*D .. (h+1)*D of its weights."""

    def __init__(self, config: CompactConfig, n_heads: int) -> None:
        super().__init__()
        hidden, rows = config.hidden_size, n_heads * config.head_dim
        self.head_dim, self.eps = config.head_dim, config.layer_norm_eps
        self.probability_dropout = config.attention_probs_dropout_prob
        self.output_dropout = config.hidden_dropout_prob
        self.w_qkv = nn.Parameter(torch.empty(3, rows, hidden))
        self.b_qkv = nn.Parameter(torch.zeros(3, rows))
        self.w_out = nn.Parameter(torch.empty(rows, hidden))
        self.b_out = nn.Parameter(torch.zeros(hidden))
        self.norm = Norm(hidden)

    def weights(self) -> list[Tensor]:
        """In the order of `compact_encoder`."""
        return _tensors(self, ("w_qkv", "b_qkv", "w_out", "b_out")) + _tensors(self.norm, ("weight", "bias"))

    def forward(self, x: Tensor, batch: PackedBatch, masks: LayerMasks | None, sites: Tensor | None) -> Tensor:
        z_mha = None if masks is None else masks.z_mha
        if is_skipped(z_mha):
            return x
        z_hidden = None if masks is None else masks.z_hidden
        attended = cofi_kernels.masked_attention(
            x,
            self.w_qkv,
            self.b_qkv,
            self.w_out,
            self.b_out,
            batch.cu_seqlens,
            batch.max_seqlen,
            head_dim=self.head_dim,
            z_head=None if masks is None else masks.z_head,
            z_mha=z_mha,
            z_hidden=z_hidden,
            dropout_p=0.0 if sites is None else self.probability_dropout,
            dropout_state=None if sites is None else sites[0],
        )
        return cofi_kernels.masked_layer_norm(
            attended,
            x,
            self.norm.weight,
            self.norm.bias,
            z_hidden=z_hidden,
            z_layer=z_mha,
            eps=self.eps,
            dropout_p=0.0 if sites is None else self.output_dropout,
            dropout_state=None if sites is None else sites[1],
        )


class FeedForward(nn.Module):
    """FFN sublayer: y = norm(dropout(ffn(x)) + x). Intermediate dim i owns row i of w_up and of w_down."""

    def __init__(self, config: CompactConfig, size: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.activation, self.eps = config.hidden_act, config.layer_norm_eps
        self.output_dropout = config.hidden_dropout_prob
        self.w_up = nn.Parameter(torch.empty(size, hidden))
        self.b_up = nn.Parameter(torch.zeros(size))
        self.w_down = nn.Parameter(torch.empty(size, hidden))
        self.b_down = nn.Parameter(torch.zeros(hidden))
        self.norm = Norm(hidden)

    def weights(self) -> list[Tensor]:
        """In the order of `compact_encoder`."""
        return _tensors(self, ("w_up", "b_up", "w_down", "b_down")) + _tensors(self.norm, ("weight", "bias"))

    def forward(self, x: Tensor, masks: LayerMasks | None, sites: Tensor | None) -> Tensor:
        z_ffn = None if masks is None else masks.z_ffn
        if is_skipped(z_ffn):
            return x
        z_hidden = None if masks is None else masks.z_hidden
        transformed = cofi_kernels.masked_ffn(
            x,
            self.w_up,
            self.b_up,
            self.w_down,
            self.b_down,
            z_int=None if masks is None else masks.z_int,
            z_ffn=z_ffn,
            z_hidden=z_hidden,
            activation=self.activation,
        )
        return cofi_kernels.masked_layer_norm(
            transformed,
            x,
            self.norm.weight,
            self.norm.bias,
            z_hidden=z_hidden,
            z_layer=z_ffn,
            eps=self.eps,
            dropout_p=0.0 if sites is None else self.output_dropout,
            dropout_state=None if sites is None else sites[2],
        )


class EncoderLayer(nn.Module):
    """One layer of given widths; a removed sublayer is None and the identity."""

    def __init__(self, config: CompactConfig, n_heads: int | None, intermediate_size: int | None) -> None:
        super().__init__()
        self.attention = None if n_heads is None else Attention(config, n_heads)
        self.ffn = None if intermediate_size is None else FeedForward(config, intermediate_size)

    def forward(self, x: Tensor, batch: PackedBatch, masks: LayerMasks | None, sites: Tensor | None) -> Tensor:
        """x (T, E) -> (T, E). sites: (3, 2) int64 dropout counters of this layer, None outside training."""
        if self.attention is not None:
            x = self.attention(x, batch, masks, sites)
        if self.ffn is not None:
            x = self.ffn(x, masks, sites)
        return x
