"""BERT-base pruned to 95 % as one call, against the same structure as a padded PyTorch model, eager and compiled."""

from __future__ import annotations

import pytest
import torch

from bench.rivals import padded_encoder
from cofi_kernels import EncoderLayout, compact_encoder
from cofi_kernels.compact_encoder.layout import weight_shapes
from cofi_kernels.packing import pad, unpad, valid_positions

FAMILY = "compact_encoder"
HIDDEN = 764
HEADS = (2, 3, 2, 0, 0, 0, 0, 0, 2, 2, 1, 0)
INTERMEDIATE = (500, 300, 0, 0, 0, 0, 0, 0, 0, 250, 0, 200)
LAYOUT = EncoderLayout(
    heads=HEADS,
    intermediate=INTERMEDIATE,
    mha=tuple(n > 0 for n in HEADS),
    ffn=tuple(n > 0 for n in INTERMEDIATE),
    head_dim=64,
    eps=1e-12,
    activation="gelu",
)
BATCHES = {"1x128": (128,), "8x128": (128,) * 8, "8 sentences": (12, 57, 33, 40, 21, 18, 64, 27)}


@pytest.mark.parametrize("case", BATCHES)
@torch.no_grad()
def test_forward(contest, compiled, device, case):
    lengths = BATCHES[case]
    shapes = weight_shapes(LAYOUT, HIDDEN)
    weights = [torch.empty(0) if shape is None else torch.randn(shape) / shape[-1] ** 0.5 for shape in shapes]
    weights = [w.to(device) for w in weights]
    cu_seqlens = torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)
    x, longest = torch.randn(sum(lengths), HIDDEN, device=device), max(lengths)
    padded = pad(x, cu_seqlens, longest)
    valid = None
    if min(lengths) < longest:
        valid = valid_positions(cu_seqlens, longest)[:, None, None, :]
    fast = compiled(padded_encoder)
    n_weights = sum(w.numel() for w in weights)
    inside = 4.0 * sum(n * n for n in lengths) * 64 * sum(HEADS)
    contest(
        FAMILY,
        f"forward, {case}",
        lambda: compact_encoder(x, cu_seqlens, longest, weights, LAYOUT),
        {
            "eager": lambda: unpad(padded_encoder(padded, valid, weights, LAYOUT), cu_seqlens, sum(lengths)),
            "compiled": lambda: unpad(fast(padded, valid, weights, LAYOUT), cu_seqlens, sum(lengths)),
        },
        bytes_moved=4 * (n_weights + 2 * x.numel()),
        flops=2.0 * sum(lengths) * n_weights + inside,
    )
