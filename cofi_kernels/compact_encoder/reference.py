"""The compact encoder in plain PyTorch: the definition every backend reproduces. Inference only.

For each layer, with the masks already folded into the weights:
    a = LayerNorm(x + concat_h(softmax(q_h k_h^T / sqrt(D)) v_h) W_o + b_o)     a = x where the sublayer is removed
    x = LayerNorm(a + act(a W_up^T + b_up) W_down + b_down)                     x = a where the sublayer is removed

In int8 and bf16 the four products with weights are those of `low_precision.py`.

T packed tokens, B sequences, S padded length, H heads, D head dim, E hidden; H and I differ from layer to layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cofi_kernels.compact_encoder import low_precision
from cofi_kernels.compact_encoder.layout import LAYER_WEIGHTS, N_ATTENTION_WEIGHTS
from cofi_kernels.masked_ffn.activations import get_activation
from cofi_kernels.packing import Group, length_groups, pad, unpad, valid_positions

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # x (T, K), weight (K, N), bias (N,) -> (T, N)
Attend = Callable[[Tensor], Tensor]  # qkv (T, 3, H, D) -> context (T, H, D)


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
    """Returns the last layer's states (T, E)."""
    linear = _LINEAR[precision]
    ffn_block = low_precision.FFN_BLOCK if precision == "int8" else max(intermediate, default=0)
    attend = _attention_of(cu_seqlens, max_seqlen, x.shape[0], max(heads, default=0))
    act = get_activation(activation).function
    hidden = x.clone() if not any(mha) and not any(ffn) else x  # an op's output never is its input
    for i, n_heads in enumerate(heads):
        layer = weights[i * len(LAYER_WEIGHTS) : (i + 1) * len(LAYER_WEIGHTS)]
        if mha[i]:
            hidden = _attention(hidden, layer[:N_ATTENTION_WEIGHTS], n_heads, head_dim, eps, attend, linear)
        if ffn[i]:
            hidden = _feed_forward(hidden, layer[N_ATTENTION_WEIGHTS:], eps, act, linear, max(ffn_block, 1))
    return hidden


_LINEAR: dict[str, Linear] = {
    "fp32": lambda x, weight, bias: x @ weight if bias is None else torch.addmm(bias, x, weight),
    "int8": low_precision.int8_linear,
    "bf16": low_precision.bf16_linear,
}


def _attention(
    x: Tensor, weights: list[Tensor], n_heads: int, head_dim: int, eps: float, attend: Attend, linear: Linear
) -> Tensor:
    w_qkv, b_qkv, w_out, b_out, norm_weight, norm_bias = weights
    if n_heads == 0:
        return F.layer_norm(x + b_out, x.shape[1:], norm_weight, norm_bias, eps)
    qkv = linear(x, w_qkv.flatten(0, 1).t(), b_qkv.flatten()).view(x.shape[0], 3, n_heads, head_dim)
    projected = linear(attend(qkv).flatten(1), w_out, b_out)
    return F.layer_norm(projected + x, x.shape[1:], norm_weight, norm_bias, eps)


def _feed_forward(
    x: Tensor, weights: list[Tensor], eps: float, act: Callable[[Tensor], Tensor], linear: Linear, block: int
) -> Tensor:
    """`block` intermediate dims at a time."""
    w_up, b_up, w_down, b_down, norm_weight, norm_bias = weights
    projected: Tensor | None = None
    for first in range(0, max(w_up.shape[0], 1), block):
        dims = slice(first, first + block)
        h = act(linear(x, w_up[dims].t(), b_up[dims]))
        part = linear(h, w_down[dims], b_down if projected is None else None)
        projected = part if projected is None else projected + part
    return F.layer_norm(x if projected is None else projected + x, x.shape[1:], norm_weight, norm_bias, eps)


def _attention_of(cu_seqlens: Tensor, max_seqlen: int, n_tokens: int, n_heads: int) -> Attend:
    """How to attend inside each sequence: by groups of like length on a CPU, padded to one length elsewhere.

    The first reads the lengths, which costs nothing on a CPU and would stop a GPU.
    """
    if cu_seqlens.device.type == "cpu":
        groups = length_groups(cu_seqlens, max_seqlen, n_tokens, n_heads)
        return lambda qkv: _attend_groups(qkv, groups)
    return lambda qkv: _attend_padded(qkv, cu_seqlens, max_seqlen)


def _attend_groups(qkv: Tensor, groups: tuple[Group, ...]) -> Tensor:
    context = qkv.new_empty((qkv.shape[0], *qkv.shape[2:]))
    for group in groups:
        shape = (group.n_sequences, group.seqlen, *qkv.shape[1:])
        q, k, v = group.take(qkv).view(shape).transpose(1, 3).unbind(2)  # (b, H, n, D)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=group.key_mask())
        group.put(out.transpose(1, 2).flatten(0, 1), context)
    return context


def _attend_padded(qkv: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
    q, k, v = (pad(part, cu_seqlens, max_seqlen).transpose(1, 2) for part in qkv.unbind(1))  # (B, H, S, D)
    valid = valid_positions(cu_seqlens, max_seqlen)
    valid[:, :1] = True  # an empty sequence attends to one row of zeros rather than to nothing, which is NaN
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :])
    return unpad(out.transpose(1, 2), cu_seqlens, qkv.shape[0])
