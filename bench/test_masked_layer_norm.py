"""Residual and LayerNorm over the kept hidden dims of BERT-base: forward and backward against PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cofi_kernels import masked_layer_norm
from cofi_kernels.testing import FP32_TOLERANCE

FAMILY = "masked_layer_norm"
TOKENS, HIDDEN, EPS = 1024, 768, 1e-12
DROPPED = {"no mask": None, "none dropped": 0, "two dropped": 2}


def columns(x, residual, weight, bias, z_hidden):
    """LayerNorm of the kept columns, copied together and back, as the official code does it."""
    v = x + residual
    if z_hidden is None:
        return F.layer_norm(v, v.shape[1:], weight, bias, EPS)
    kept = z_hidden.nonzero()[:, 0]
    normed = F.layer_norm(v[:, kept], kept.shape, weight[kept], bias[kept], EPS) * z_hidden[kept]
    return torch.zeros_like(v).index_copy(1, kept, normed)


@pytest.fixture(params=DROPPED.values(), ids=list(DROPPED))
def sublayer(request, device):
    """(name of the case, arguments of `columns`, dy)"""
    name = next(key for key, value in DROPPED.items() if value == request.param)
    x, residual = (torch.randn(TOKENS, HIDDEN, device=device) for _ in range(2))
    weight, bias = torch.rand(HIDDEN, device=device) + 0.5, torch.randn(HIDDEN, device=device)
    z_hidden = None
    if request.param is not None:
        z_hidden = torch.rand(HIDDEN, device=device) * 0.5 + 0.5
        z_hidden[: request.param] = 0.0
        z_hidden.requires_grad_()
    args = [t.requires_grad_() for t in (x, residual, weight, bias)]
    return name, [*args, z_hidden], torch.randn(TOKENS, HIDDEN, device=device)


def ours(x, residual, weight, bias, z_hidden):
    return masked_layer_norm(x, residual, weight, bias, z_hidden=z_hidden, eps=EPS)


def test_forward(contest, sublayer):
    name, args, dy = sublayer
    args = [t if t is None else t.detach() for t in args]
    rivals = {"eager": lambda: columns(*args)}
    contest(FAMILY, f"forward, {name}", lambda: ours(*args), rivals, bytes_moved=3 * dy.nbytes)


def test_forward_and_gradients(contest, sublayer):
    name, args, dy = sublayer
    wanted = [t for t in args if t is not None]

    def both(function):
        y = function(*args)
        return y.detach(), *torch.autograd.grad(y, wanted, dy)

    rivals = {"eager": lambda: both(columns)}
    contest(
        FAMILY,
        f"forward and gradients, {name}",
        lambda: both(ours),
        rivals,
        bytes_moved=8 * dy.nbytes,
        tolerance=2 * FP32_TOLERANCE,  # either may be off by one
    )
