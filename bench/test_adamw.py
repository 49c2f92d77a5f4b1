"""Clipping and AdamW over two layers of BERT-base on the CPU, against torch's clipping and fused AdamW."""

from __future__ import annotations

import pytest
import torch

from cofi.train.optim import ClippingAdamW

FAMILY = "adamw"
SHAPES = [(3, 768, 768), (3, 768), (768, 768), (768,), (3072, 768), (3072,), (3072, 768), (768,)] * 2
SETTINGS = {"lr": 1e-4, "weight_decay": 0.01, "fused": True}


@pytest.mark.parametrize("live", [1, 2], ids=["one layer without gradient", "all gradients"])
def test_clipped_step(contest, device, live):
    if device == "cuda":
        pytest.skip("on a GPU cofi.train uses torch's own")
    start = [torch.randn(shape) for shape in SHAPES]
    gradients = [torch.randn(shape) if i < live * len(SHAPES) // 2 else None for i, shape in enumerate(SHAPES)]

    def run_of(optimizer_class, fill):
        params = [torch.nn.Parameter(p.clone()) for p in start]
        optimizer = optimizer_class(params, **SETTINGS)
        optimizer.max_grad_norm = 1.0

        def run():
            for p, grad in zip(params, gradients, strict=True):
                p.grad = torch.zeros_like(p) if grad is None and fill else grad
            if fill:
                torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            return [p.detach() for p in params]

        return run

    n_bytes = sum(4 * p.numel() * (7 if grad is not None else 6) for p, grad in zip(start, gradients, strict=True))
    ours, torchs = run_of(ClippingAdamW, False), run_of(torch.optim.AdamW, True)
    contest(FAMILY, f"{live} of 2 layers with gradients", ours, {"torch": torchs}, bytes_moved=n_bytes)
