"""Weights of the encoder in the order in which the persistent kernel's tensor cores take them.

A block is 16 inputs x 16 outputs, for mma.sync in the order of the lanes, for wgmma in its core matrices. Blocks of a
product lie input by input. csrc/cuda/compact_encoder/plan.cpp counts them in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.compact_encoder.layout import LAYER_WEIGHTS, N_ATTENTION_WEIGHTS, EncoderLayout

BLOCK = 16
PASS_COLUMNS = 768  # of the first product of an FFN: what the warps of a thread block sum at once


class PackedFragments(NamedTuple):
    """blocks: (n, 256) in the dtype of the weights; vectors: fp32, bias of a sublayer's products and its norm."""

    blocks: Tensor
    vectors: Tensor


def pack_fragments(
    weights: Sequence[Tensor], layout: EncoderLayout, n_hidden: int, heads_of_group: int, is_wide: bool
) -> PackedFragments:
    """Copy `weights`, as `compact_encoder` takes them.

    heads_of_group: heads whose q, k and v are one product; is_wide: for wgmma. Both are the plan's.
    """
    to_blocks = to_core_matrices if is_wide else to_lanes
    products: list[Tensor] = []
    vectors: list[Tensor] = []
    for i in range(layout.n_layers):
        layer = [w.detach() for w in weights[i * len(LAYER_WEIGHTS) : (i + 1) * len(LAYER_WEIGHTS)]]
        if layout.mha[i]:
            attention = layer[:N_ATTENTION_WEIGHTS]
            products += _attention_products(attention, layout.heads[i], layout.head_dim, heads_of_group)
            vectors += _attention_vectors(attention, layout.heads[i], layout.head_dim)
        if layout.ffn[i]:
            products += _ffn_products(layer[N_ATTENTION_WEIGHTS:])
            vectors += [_padded(v, _up(v.shape[0])) for v in (layer[7], *layer[9:])]
    like = next((w for w in weights if w.numel()), torch.empty(0))
    return PackedFragments(
        torch.cat([to_blocks(p) for p in products] or [like.new_empty((0, BLOCK * BLOCK))]).contiguous(),
        torch.cat([v.float() for v in vectors] or [like.new_empty(0, dtype=torch.float32)]),
    )


def to_lanes(matrix: Tensor) -> Tensor:
    """(K, N) inputs x outputs, multiples of 16 -> (K / 16 * N / 16, 256): 32 lanes of 8 elements, for two mma.m16n8k16.

    Lane 4 g + t holds, of outputs g and 8 + g, inputs 2 t, 2 t + 1 and 8 + 2 t, 8 + 2 t + 1.
    """
    k, n = matrix.shape
    split = matrix.reshape(k // BLOCK, 2, 4, 2, n // BLOCK, 2, 8)  # depth, half, t, element; column, tile, g
    return split.permute(0, 4, 6, 2, 5, 1, 3).reshape(-1, BLOCK * BLOCK)


def to_core_matrices(matrix: Tensor) -> Tensor:
    """The same for wgmma: in a block 8 x 8 elements lie together, an output's 8 inputs side by side.

    Inputs 0 to 7 of outputs 0 to 7 come first, then inputs 8 to 15 of these, then outputs 8 to 15.
    """
    k, n = matrix.shape
    split = matrix.reshape(k // BLOCK, 2, 8, n // BLOCK, 2, 8)  # depth, half, input; column, half, output
    return split.permute(0, 3, 4, 1, 5, 2).reshape(-1, BLOCK * BLOCK)


def _attention_products(weights: Sequence[Tensor], heads: int, head_dim: int, group: int) -> Iterator[Tensor]:
    w_qkv, _, w_out = weights[:3]
    hidden, dims = w_qkv.shape[2], _up(head_dim)
    by_head = _padded(w_qkv.reshape(3, heads, head_dim, hidden).transpose(0, 1), heads, 3, dims, _up(hidden))
    for part in by_head.split(group) if heads else ():
        yield part.flatten(0, 2).t()
    yield _padded(w_out.reshape(heads, head_dim, hidden), heads, dims, _up(hidden)).flatten(0, 1)


def _attention_vectors(weights: Sequence[Tensor], heads: int, head_dim: int) -> Iterator[Tensor]:
    _, b_qkv, _, *others = weights
    yield _padded(b_qkv.reshape(3, heads, head_dim).transpose(0, 1), heads, 3, _up(head_dim)).flatten()
    yield from (_padded(v, _up(v.shape[0])) for v in others)


def _ffn_products(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    w_up, w_down = weights[0], weights[2]
    shape = (_up(w_up.shape[0]), _up(w_up.shape[1]))
    for part in _padded(w_up, *shape).split(PASS_COLUMNS) if shape[0] else ():
        yield part.t()
    yield _padded(w_down, *shape)


def _up(n: int) -> int:
    return -(-n // BLOCK) * BLOCK


def _padded(t: Tensor, *shape: int) -> Tensor:
    out = t.new_zeros(shape)
    out[tuple(slice(size) for size in t.shape)] = t
    return out
