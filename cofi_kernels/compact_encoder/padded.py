"""Weights of the encoder as its Triton kernels read them: padded with zeros once, so that no launch pads.

A row of E hidden dims becomes PIECE * N_PIECES; a head of D dims the next power of two from 16 on; I intermediate dims
a multiple of 64. Zeros add nothing to any product, and LayerNorm counts the true width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.compact_encoder.layout import LAYER_WEIGHTS, N_ATTENTION_WEIGHTS, EncoderLayout

DTYPES = (torch.bfloat16, torch.float16)
MOST_HIDDEN = 1024  # 8 pieces: sums of a block of 16 rows take 64 registers a thread
MOST_HEAD_DIM = 64  # at 128 the attention kernel spills 8 to 328 bytes a thread
_DIMS = 64  # intermediate dims come in multiples of it: the depth of a product's tile


def why_not(x: Tensor, head_dim: int) -> str | None:
    """Why the Triton kernels cannot take x (T, E), or None."""
    if x.dtype not in DTYPES:
        return f"its kernels compute in bf16 and fp16, not in {x.dtype}"
    if x.shape[1] > MOST_HIDDEN:
        return f"its Triton kernels take at most {MOST_HIDDEN} hidden dims, the model has {x.shape[1]}"
    if head_dim > MOST_HEAD_DIM:
        return f"its Triton kernels take at most {MOST_HEAD_DIM} dims a head, the model has {head_dim}"
    return None


class Width(NamedTuple):
    """The hidden size and how a row of it is stored."""

    hidden: int
    piece: int
    n_pieces: int

    @property
    def padded(self) -> int:
        return self.piece * self.n_pieces


class AttentionWeights(NamedTuple):
    """w_qkv (3 H D, E), b_qkv (3 H D,), w_out (H D, E), b_out (E,), norm (2, E): weight and bias; all padded."""

    n_heads: int
    w_qkv: Tensor
    b_qkv: Tensor
    w_out: Tensor
    b_out: Tensor
    norm: Tensor


class FfnWeights(NamedTuple):
    """w_up (I, E), b_up (I,), w_down (I, E), b_down (E,), norm (2, E): weight and bias; all padded."""

    n_dims: int
    w_up: Tensor
    b_up: Tensor
    w_down: Tensor
    b_down: Tensor
    norm: Tensor


def width_of(n_hidden: int) -> Width:
    piece = 128 if n_hidden > 64 else 64
    return Width(n_hidden, piece, max(1, -(-n_hidden // piece)))


def padded_head_dim(head_dim: int) -> int:
    return max(16, 1 << (head_dim - 1).bit_length())


def pad_weights(weights: Sequence[Tensor], layout: EncoderLayout, width: Width) -> list[AttentionWeights | FfnWeights]:
    """The kept sublayers in order, with weights as `compact_encoder` takes them copied into padded ones."""
    sublayers: list[AttentionWeights | FfnWeights] = []
    for i in range(layout.n_layers):
        layer = weights[i * len(LAYER_WEIGHTS) : (i + 1) * len(LAYER_WEIGHTS)]
        if layout.mha[i]:
            sublayers.append(_attention(layer[:N_ATTENTION_WEIGHTS], layout.heads[i], layout.head_dim, width.padded))
        if layout.ffn[i]:
            sublayers.append(_ffn(layer[N_ATTENTION_WEIGHTS:], width.padded))
    return sublayers


def _attention(weights: Sequence[Tensor], n_heads: int, head_dim: int, row: int) -> AttentionWeights:
    w_qkv, b_qkv, w_out, b_out, norm_weight, norm_bias = weights
    dims = padded_head_dim(head_dim)
    hidden = b_out.shape[0]
    return AttentionWeights(
        n_heads,
        _padded(w_qkv.reshape(3, n_heads, head_dim, hidden), (3, n_heads, dims, row)).view(3 * n_heads * dims, row),
        _padded(b_qkv.reshape(3, n_heads, head_dim), (3, n_heads, dims)).view(-1),
        _padded(w_out.reshape(n_heads, head_dim, hidden), (n_heads, dims, row)).view(n_heads * dims, row),
        _padded(b_out, (row,)),
        _padded(torch.stack((norm_weight, norm_bias)), (2, row)),
    )


def _ffn(weights: Sequence[Tensor], row: int) -> FfnWeights:
    w_up, b_up, w_down, b_down, norm_weight, norm_bias = weights
    dims = -(-w_up.shape[0] // _DIMS) * _DIMS
    return FfnWeights(
        dims,
        _padded(w_up, (dims, row)),
        _padded(b_up, (dims,)),
        _padded(w_down, (dims, row)),
        _padded(b_down, (row,)),
        _padded(torch.stack((norm_weight, norm_bias)), (2, row)),
    )


def _padded(t: Tensor, shape: tuple[int, ...]) -> Tensor:
    out = t.new_zeros(shape)
    out[tuple(slice(size) for size in t.shape)] = t.detach()
    return out
