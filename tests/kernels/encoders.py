"""Small encoders for tests of GPU kernels: layouts of every kind of layer, weights, and what PyTorch makes of them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder import reference
from cofi_kernels.compact_encoder.layout import weight_shapes

HIDDEN = 29
# every kind of layer: whole, attention removed, one head, FFN removed, both removed, kept without units
MIXED = EncoderLayout(
    heads=(3, 0, 1, 0, 0),
    intermediate=(131, 7, 0, 0, 0),
    mha=(True, False, True, False, True),
    ffn=(True, True, False, False, True),
    head_dim=8,
    eps=1e-5,
    activation="gelu",
)
ONE = replace(MIXED, heads=(2,), intermediate=(70,), mha=(True,), ffn=(True,))


def weights_of(layout: EncoderLayout, n_hidden: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    shapes = weight_shapes(layout, n_hidden)
    tensors = [
        torch.empty(0, device=device) if shape is None else torch.randn(shape, device=device) / max(shape[-1], 1) ** 0.5
        for shape in shapes
    ]
    return [t.to(dtype) for t in tensors]


def bounds_of(lengths: list[int], device: torch.device | str) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)


def want(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    sizes = (list(layout.heads), list(layout.intermediate), list(layout.mha), list(layout.ffn))
    settings = (layout.head_dim, layout.eps, layout.activation, "fp32")
    return reference.forward(x, bounds_of(lengths, x.device), max(lengths, default=0), weights, *sizes, *settings)


def want64(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    return want(x.double(), lengths, [w.double() for w in weights], layout)
