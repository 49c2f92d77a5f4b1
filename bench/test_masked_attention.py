"""One attention sublayer of BERT-base as its heads die: forward and backward against dense PyTorch under masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cofi_kernels import masked_attention
from cofi_kernels.packing import pad, unpad, valid_positions
from cofi_kernels.testing import FP32_TOLERANCE

FAMILY = "masked_attention"
HIDDEN, HEADS, HEAD_DIM = 768, 12, 64
WIDTH = HEADS * HEAD_DIM
LENGTHS = (128, 12, 57, 33, 40, 96, 21, 125)  # 512 tokens
LIVE = {"no mask": None, "all": 12, "half": 6, "one": 1, "dead layer": 0}


def dense(x, w_qkv, b_qkv, w_out, b_out, z_head, z_mha, z_hidden, cu_seqlens):
    """What a model under masks computes that skips nothing: packed products, padded attention."""
    qkv = F.linear(x, w_qkv.flatten(0, 1), b_qkv.flatten()).view(len(x), 3, HEADS, HEAD_DIM)
    q, k, v = (pad(part, cu_seqlens, max(LENGTHS)).transpose(1, 2) for part in qkv.unbind(1))
    valid = valid_positions(cu_seqlens, max(LENGTHS))[:, None, None, :]
    context = F.scaled_dot_product_attention(q, k, v, attn_mask=valid)
    context = unpad(context.transpose(1, 2), cu_seqlens, len(x))
    context = context if z_head is None else context * z_head[:, None]
    y = torch.addmm(b_out, context.flatten(1), w_out)
    return y if z_head is None else y * z_mha * z_hidden


def masks_of(live, device):
    if live is None:
        return None, None, None
    z_head = (torch.rand(HEADS, device=device) * 0.9 + 0.1) * (torch.arange(HEADS, device=device) < (live or HEADS))
    return z_head, torch.tensor(float(live > 0), device=device), torch.rand(HIDDEN, device=device) * 0.5 + 0.5


@pytest.fixture(params=LIVE.values(), ids=list(LIVE))
def sublayer(request, device):
    """(name of the case, live heads, arguments of `dense`, dy)"""
    name = next(key for key, value in LIVE.items() if value == request.param)
    shapes = ((sum(LENGTHS), HIDDEN), (3, WIDTH, HIDDEN), (3, WIDTH), (WIDTH, HIDDEN), (HIDDEN,))
    tensors = [(torch.randn(shape, device=device) / shape[-1] ** 0.5).requires_grad_() for shape in shapes]
    cu_seqlens = torch.tensor([0, *LENGTHS], device=device).cumsum(0).to(torch.int32)
    n_live = HEADS if request.param is None else request.param
    args = [*tensors, *masks_of(request.param, device), cu_seqlens]
    return name, n_live, args, torch.randn(sum(LENGTHS), HIDDEN, device=device)


def ours(x, w_qkv, b_qkv, w_out, b_out, z_head, z_mha, z_hidden, cu_seqlens):
    masks = {"z_head": z_head, "z_mha": z_mha, "z_hidden": z_hidden}
    sizes = (cu_seqlens, max(LENGTHS))
    return masked_attention(x, w_qkv, b_qkv, w_out, b_out, *sizes, head_dim=HEAD_DIM, **masks)


def work(n_live):
    """Operations of the projections and inside the sequences, forward."""
    return 8.0 * sum(LENGTHS) * HIDDEN * HEAD_DIM * n_live, 4.0 * sum(n * n for n in LENGTHS) * HEAD_DIM * n_live


def test_forward(contest, compiled, sublayer):
    name, n_live, args, _ = sublayer
    args = [t if t is None else t.detach() for t in args]
    fast = compiled(dense)
    rivals = {"eager": lambda: dense(*args), "compiled": lambda: fast(*args)}
    bytes_moved = 4 * (2 * sum(LENGTHS) * HIDDEN + 4 * n_live * HEAD_DIM * HIDDEN)
    contest(FAMILY, f"forward, {name}", lambda: ours(*args), rivals, bytes_moved=bytes_moved, flops=sum(work(n_live)))


def test_forward_and_gradients(contest, compiled, sublayer):
    name, n_live, args, dy = sublayer

    def both(function):
        y = function(*args)
        return y.detach(), *torch.autograd.grad(y, args[:5], dy)

    projections, inside = work(n_live)
    fast = compiled(dense)
    rivals = {"eager": lambda: both(dense), "compiled": lambda: both(fast)}
    contest(
        FAMILY,
        f"forward and gradients, {name}",
        lambda: both(ours),
        rivals,
        bytes_moved=4 * (5 * sum(LENGTHS) * HIDDEN + 12 * n_live * HEAD_DIM * HIDDEN),
        flops=3 * projections + 3.5 * inside,
        tolerance=2 * FP32_TOLERANCE,  # either may be off by one
    )
