"""One feed-forward sublayer of BERT-base as its dims die: forward and backward against dense PyTorch under masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cofi_kernels import masked_ffn
from cofi_kernels.testing import FP32_TOLERANCE

FAMILY = "masked_ffn"
TOKENS, HIDDEN, INTERMEDIATE = 512, 768, 3072
LIVE = {"no mask": None, "all": 1.0, "half": 0.5, "5 %": 0.05, "dead layer": 0.0}


def dense(x, w_up, b_up, w_down, b_down, z_int, z_ffn, z_hidden):
    """What a model under masks computes that skips nothing."""
    h = F.gelu(F.linear(x, w_up, b_up))
    y = torch.addmm(b_down, h if z_int is None else h * z_int, w_down)
    return y if z_int is None else y * z_ffn * z_hidden


def masks_of(live, device):
    if live is None:
        return None, None, None
    z_int = torch.rand(INTERMEDIATE, device=device) * 0.9 + 0.1
    z_int[torch.randperm(INTERMEDIATE, device=device)[round(INTERMEDIATE * (live or 1.0)) :]] = 0.0
    return z_int, torch.tensor(float(live > 0), device=device), torch.rand(HIDDEN, device=device) * 0.5 + 0.5


@pytest.fixture(params=LIVE.values(), ids=list(LIVE))
def sublayer(request, device):
    """(name of the case, live dims, arguments by position, dy)"""
    name = next(key for key, value in LIVE.items() if value == request.param)
    shapes = ((TOKENS, HIDDEN), (INTERMEDIATE, HIDDEN), (INTERMEDIATE,), (INTERMEDIATE, HIDDEN), (HIDDEN,))
    tensors = [(torch.randn(shape, device=device) / shape[-1] ** 0.5).requires_grad_() for shape in shapes]
    z_int, z_ffn, z_hidden = masks_of(request.param, device)
    n_live = INTERMEDIATE if z_int is None else int((z_int * z_ffn).count_nonzero())
    return name, n_live, [*tensors, z_int, z_ffn, z_hidden], torch.randn(TOKENS, HIDDEN, device=device)


def ours(x, w_up, b_up, w_down, b_down, z_int, z_ffn, z_hidden):
    return masked_ffn(x, w_up, b_up, w_down, b_down, z_int=z_int, z_ffn=z_ffn, z_hidden=z_hidden)


def test_forward(contest, compiled, sublayer):
    name, n_live, args, _ = sublayer
    args = [t if t is None else t.detach() for t in args]
    fast = compiled(dense)
    rivals = {"eager": lambda: dense(*args), "compiled": lambda: fast(*args)}
    bytes_moved = 4 * (2 * TOKENS * HIDDEN + 2 * n_live * HIDDEN)
    flops = 4.0 * TOKENS * HIDDEN * n_live
    contest(FAMILY, f"forward, {name}", lambda: ours(*args), rivals, bytes_moved=bytes_moved, flops=flops)


def test_forward_and_gradients(contest, compiled, sublayer):
    name, n_live, args, dy = sublayer

    def both(function):
        y = function(*args)
        return y.detach(), *torch.autograd.grad(y, args[:5], dy)

    fast = compiled(dense)
    rivals = {"eager": lambda: both(dense), "compiled": lambda: both(fast)}
    contest(
        FAMILY,
        f"forward and gradients, {name}",
        lambda: both(ours),
        rivals,
        bytes_moved=4 * (5 * TOKENS * HIDDEN + 6 * n_live * HIDDEN + 2 * TOKENS * n_live),
        flops=12.0 * TOKENS * HIDDEN * n_live,
        tolerance=2 * FP32_TOLERANCE,  # either may be off by one
    )
