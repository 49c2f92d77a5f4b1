"""Launcher of the C++ encoder: fp32 at the speed of its microkernels, other dtypes by the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from cofi_kernels.compact_encoder import reference
from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.packed import find_packed, pack


def forward(
    x: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    weights: list[Tensor],
    heads: list[int],
    intermediate: list[int],
    mha: list[bool],
    ffn: list[bool],
    head_dim: int,
    eps: float,
    activation: str,
    precision: str,
) -> Tensor:
    """As `reference.forward`."""
    if x.dtype != torch.float32:
        sizes = (heads, intermediate, mha, ffn)
        return reference.forward(x, cu_seqlens, max_seqlen, weights, *sizes, head_dim, eps, activation, precision)
    layout = EncoderLayout(
        tuple(heads), tuple(intermediate), tuple(mha), tuple(ffn), head_dim, eps, activation, precision
    )
    packed = find_packed(x, weights, layout) or pack(x, weights, layout)
    return packed(x, cu_seqlens, max_seqlen)
