"""Masked multi-head attention over packed sequences in plain PyTorch: the definition every backend reproduces.

    q, k, v = x W_q^T + b_q, x W_k^T + b_k, x W_v^T + b_v                             per head h
    p_h     = softmax(q_h k_h^T / sqrt(D)) inside each sequence;  p_h := dropout(p_h)
    c_h     = p_h v_h                                                                 "context"
    y       = z_hidden * z_mha * (sum_h z_head[h] c_h W_o[h] + b_o)                   method of CoFi, section 3

T packed tokens, B sequences, S = max_seqlen, H heads, D head dim, E hidden. An absent mask is 1.
Attention dropout keeps probability (h, t, s) where `keep_at` of element (h * T + t) * S + s says so.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_at
from cofi_kernels.masking import accumulation_dtype, mask_gradient, times
from cofi_kernels.packing import pad, unpad, valid_positions
from cofi_kernels.unit_products.padding import n_integers, padded


def forward(
    x: Tensor,
    w_qkv: Tensor,
    b_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    head_dim: int,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
    dropout_p: float,
    dropout_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns y (T, E) and what the backward needs, flat: qkv (T * 3 * H * D,), context (T * H * D,), lse (H * T,).

    The last output is for backends that copy the weights; here it is not looked at.
    """
    folded = x.new_zeros(folded_numel(x, w_out, head_dim))
    w_qkv, b_qkv, w_out, b_out = (t.to(x.dtype) for t in (w_qkv, b_qkv, w_out, b_out))
    n_tokens, n_heads = x.shape[0], w_out.shape[0] // head_dim
    qkv = F.linear(x, w_qkv.flatten(0, 1), b_qkv.flatten()).view(n_tokens, 3, n_heads, head_dim)
    q, k, v = (pad(part, cu_seqlens, max_seqlen).transpose(1, 2) for part in qkv.unbind(1))  # (B, H, S, D)
    scores = scores_of(q, k, cu_seqlens)
    lse = scores.logsumexp(-1)  # (B, H, S)
    p = times(_probabilities(scores, lse), _kept(cu_seqlens, n_tokens, n_heads, max_seqlen, dropout_p, dropout_state))
    context = unpad((p.to(v.dtype) @ v).transpose(1, 2), cu_seqlens, n_tokens)  # (T, H, D)
    masked = times(context, None if z_head is None else z_head[:, None])
    y = times(masked.flatten(1) @ w_out + b_out, z_mha, z_hidden)
    lse = unpad(lse.transpose(1, 2), cu_seqlens, n_tokens).t()
    return y, qkv.flatten(), context.flatten(), lse.flatten(), folded


def folded_numel(x: Tensor, w_out: Tensor, head_dim: int) -> int:
    """Elements of x's dtype in the workspace for copied weights: none on a CPU."""
    return triton_folded_numel(x, w_out, head_dim) if x.device.type == "cuda" else 0


def triton_folded_numel(x: Tensor, w_out: Tensor, head_dim: int) -> int:
    """4 H D E, and room for the list of live heads."""
    integers = padded(n_integers(w_out.shape[0] // head_dim))
    return 4 * w_out.numel() + integers * torch.int32.itemsize // x.element_size()


def backward(
    dy: Tensor,
    x: Tensor,
    w_qkv: Tensor,
    w_out: Tensor,
    b_out: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    head_dim: int,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
    dropout_p: float,
    dropout_state: Tensor | None,
    qkv: Tensor,
    context: Tensor,
    lse: Tensor,
    folded: Tensor,
) -> tuple[Tensor, ...]:
    """Returns dx, dw_qkv, db_qkv, dw_out, db_out, dz_head, dz_mha, dz_hidden; a mask that is absent has a (0,) one."""
    weight_dtype = w_qkv.dtype
    w_qkv, w_out, b_out = (t.to(x.dtype) for t in (w_qkv, w_out, b_out))
    n_tokens, n_heads = x.shape[0], w_out.shape[0] // head_dim
    context = context.view(n_tokens, n_heads, head_dim)
    head_factor = None if z_head is None else z_head[:, None]
    masked = times(context, head_factor).flatten(1)
    projection = _projection_backward(dy, masked, w_out, b_out, z_mha, z_hidden)
    dmasked = (times(dy, z_mha, z_hidden) @ w_out.t()).view(n_tokens, n_heads, head_dim)
    # delta = rowsum(dc * c), the softmax's own correction, is also what dz_head is the sum of
    delta = (dmasked.to(accumulation_dtype(x.dtype)) * context).sum(-1)  # (T, H), before z_head
    dz_head = mask_gradient(delta.sum(0), z_head)
    kept = _kept(cu_seqlens, n_tokens, n_heads, max_seqlen, dropout_p, dropout_state)
    dcontext, delta = times(dmasked, head_factor), times(delta, z_head)
    qkv, lse = qkv.view(n_tokens, 3, n_heads, head_dim), lse.view(n_heads, n_tokens)
    dqkv = _attention_backward(dcontext, delta, qkv, lse, cu_seqlens, max_seqlen, kept).flatten(1)
    dx = dqkv @ w_qkv.flatten(0, 1)
    dw_qkv = (dqkv.t() @ x).view_as(w_qkv)
    db_qkv = dqkv.sum(0).view(w_qkv.shape[:2])
    dw_out, db_out, dz_mha, dz_hidden = projection
    weights = (t.to(weight_dtype) for t in (dw_qkv, db_qkv, dw_out, db_out))
    return dx, *weights, dz_head, dz_mha, dz_hidden


def _projection_backward(
    dy: Tensor, masked: Tensor, w_out: Tensor, b_out: Tensor, z_mha: Tensor | None, z_hidden: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dw_out, db_out, dz_mha, dz_hidden from the projection's input `masked` (T, H * D).

    `unscaled` is dw_out without the two output masks: its product with w_out sums to the gradients of both masks, so y
    need not be kept.
    """
    acc = accumulation_dtype(dy.dtype)
    unscaled, sum_dy = masked.t() @ dy, dy.sum(0, dtype=acc)
    dy_y = (w_out.to(acc) * unscaled).sum(0) + b_out.to(acc) * sum_dy  # sum_t dy * (y without masks)
    dz_mha = mask_gradient(times(dy_y, z_hidden).sum(), z_mha)
    dz_hidden = mask_gradient(times(dy_y, z_mha), z_hidden)
    return times(unscaled, z_mha, z_hidden), times(sum_dy, z_mha, z_hidden).to(dy.dtype), dz_mha, dz_hidden


def _attention_backward(
    dcontext: Tensor,
    delta: Tensor,
    qkv: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    kept: Tensor | None,
) -> Tensor:
    """dqkv (T, 3, H, D) from the gradient of the context (T, H, D) and delta (T, H)."""
    n_tokens = qkv.shape[0]
    rows = (*qkv.unbind(1), dcontext)
    q, k, v, do = (pad(part, cu_seqlens, max_seqlen).transpose(1, 2) for part in rows)  # (B, H, S, D)
    lse, delta = (pad(part, cu_seqlens, max_seqlen).transpose(1, 2) for part in (lse.t(), delta))  # (B, H, S)
    p = _probabilities(scores_of(q, k, cu_seqlens), lse)
    dv = times(p, kept).to(v.dtype).transpose(-1, -2) @ do
    dp = times((do @ v.transpose(-1, -2)).to(p.dtype), kept)
    ds = (p * (dp - delta[..., None]) / math.sqrt(q.shape[-1])).to(q.dtype)
    grads = (ds @ k, ds.transpose(-1, -2) @ q, dv)
    return torch.stack([unpad(grad.transpose(1, 2), cu_seqlens, n_tokens) for grad in grads], dim=1)


def scores_of(q: Tensor, k: Tensor, cu_seqlens: Tensor) -> Tensor:
    """q k^T / sqrt(D), (B, H, S, S) in fp32 or wider; -inf for keys past a sequence's end."""
    scores = (q @ k.transpose(-1, -2)).to(accumulation_dtype(q.dtype)) / math.sqrt(q.shape[-1])
    valid = valid_positions(cu_seqlens, q.shape[-2])
    return scores.masked_fill(~valid[:, None, None, :], -math.inf)


def _probabilities(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(scores - lse), 0 for the keys that are masked, also where a sequence has no key at all."""
    return torch.where(scores == -math.inf, 0.0, (scores - lse[..., None]).exp())


def _kept(
    cu_seqlens: Tensor, n_tokens: int, n_heads: int, max_seqlen: int, dropout_p: float, dropout_state: Tensor | None
) -> Tensor | None:
    """What dropout multiplies the probabilities with, (B, H, S, S) of 0 or 1 / (1 - p); None without dropout."""
    if dropout_p == 0.0 or dropout_state is None:
        return None
    shape = (n_heads, n_tokens, max_seqlen)
    index = torch.arange(math.prod(shape), device=cu_seqlens.device).view(shape)
    kept = keep_at(dropout_state, index, dropout_p).transpose(0, 1)  # (T, H, S)
    return pad(kept / (1.0 - dropout_p), cu_seqlens, max_seqlen).transpose(1, 2)
