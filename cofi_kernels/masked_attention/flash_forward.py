"""Softmax attention inside packed sequences for the live heads, in Triton: forward.

    c = dropout(softmax(q k^T / sqrt(D))) v       lse = log2 sum_j 2^(q k_j^T log2(e) / sqrt(D))

T tokens, B sequences, D head dim; n_live heads, whose numbers among all H are the front of `heads`, both on the device.
The scores of a block of BLOCK_M queries with BLOCK_N keys stay in registers (Dao et al., FlashAttention, NeurIPS 2022).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng.triton_kernels import keep_rows
from cofi_kernels.grids import multiprocessors
from cofi_kernels.masked_attention.flash_blocks import (
    LOG2_E,
    Sizes,
    block_of_slot,
    dropout_of,
    first_elements,
    load_rows,
    product,
    store_rows,
)
from cofi_kernels.masked_attention.flash_tiles import forward_tile


@triton.jit(do_not_specialize=["n_tokens", "n_sequences", "n_heads", "max_seqlen", "threshold"])
def _attention_fwd_kernel(
    qkv_ptr,
    heads_ptr,
    n_live_ptr,
    cu_seqlens_ptr,
    state_ptr,
    context_ptr,
    lse_ptr,
    n_tokens,
    n_sequences,
    n_heads,
    max_seqlen,
    threshold,
    keep_scale,
    score_scale,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """q, k, v in the front of qkv's rows to the front of context's rows and lse (n_live, T).

    score_scale: log2(e) / sqrt(D)
    """
    n_live = tl.load(n_live_ptr)
    n_items = (n_tokens // BLOCK_M + n_sequences) * n_live
    context_stride = n_heads * D
    stride = 3 * context_stride
    for item in range(tl.program_id(0), n_items, tl.num_programs(0)):
        unit = item % n_live
        start, length, first = block_of_slot(cu_seqlens_ptr, item // n_live, n_sequences, n_tokens, BLOCK_M)
        row = first + tl.arange(0, BLOCK_M)
        q_ptr = qkv_ptr + start.to(tl.int64) * stride + unit * D
        k_ptr, v_ptr = q_ptr + n_live * D, q_ptr + 2 * n_live * D
        q = load_rows(q_ptr, row, length, stride, D)
        element = first_elements(tl.load(heads_ptr + unit), start + row, n_tokens, max_seqlen)
        highest = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
        context = tl.zeros((BLOCK_M, D), tl.float32)
        for first_key in range(0, length, BLOCK_N):
            key = first_key + tl.arange(0, BLOCK_N)
            k = load_rows(k_ptr, key, length, stride, D)
            v = load_rows(v_ptr, key, length, stride, D)
            s = product(q, tl.trans(k), tl.zeros((BLOCK_M, BLOCK_N), tl.float32)) * score_scale
            s = tl.where((key < length)[None, :], s, float("-inf"))
            new_highest = tl.maximum(highest, tl.max(s, 1))
            p = tl.exp2(s - new_highest[:, None])
            shrink = tl.exp2(highest - new_highest)
            total, highest = total * shrink + tl.sum(p, 1), new_highest
            if state_ptr is not None:
                p = tl.where(keep_rows(state_ptr, element + first_key, threshold, BLOCK_N, ALIGNED), p, 0.0)
            context = product(p.to(v.dtype), v, context * shrink[:, None])
        total = tl.where(total == 0.0, 1.0, total)  # rows of a slot to spare, stored nowhere
        context_ptrs = context_ptr + start.to(tl.int64) * context_stride + unit * D
        store_rows(context_ptrs, row, length, context_stride, context * (keep_scale / total)[:, None], D)
        lse_ptrs = lse_ptr + unit.to(tl.int64) * n_tokens + start
        tl.store(lse_ptrs + row, highest + tl.log2(total), mask=row < length)


def forward(
    qkv: Tensor,
    heads: Tensor,
    n_live: Tensor,
    cu_seqlens: Tensor,
    sizes: Sizes,
    dropout_p: float,
    dropout_state: Tensor | None,
    context: Tensor,
    lse: Tensor,
) -> None:
    """Write context and lse of the live heads.

    qkv:   (T, 3 H D); a row holds q of the live heads, then their k, then their v, 3 n_live D numbers
    heads: int32 (H,), the live ones first; n_live: int32 (1,)
    context (T, H D): the first n_live D numbers of each row are written; lse (H, T) fp32: the first n_live rows
    """
    dropout = dropout_of(dropout_p, dropout_state, sizes.max_seqlen)
    tile = forward_tile(sizes.head_dim, qkv.dtype, dropout.aligned)
    n_items = sizes.slots(tile.queries) * sizes.n_heads
    if sizes.n_tokens == 0 or n_items == 0:
        return
    with torch.cuda.device_of(qkv):
        _attention_fwd_kernel[(tile.programs(n_items, multiprocessors(qkv.device)),)](
            *(qkv, heads, n_live, cu_seqlens.contiguous(), dropout.state, context, lse),
            *(sizes.n_tokens, sizes.n_sequences, sizes.n_heads, sizes.max_seqlen, dropout.threshold, dropout.scale),
            LOG2_E * sizes.head_dim**-0.5,
            *(sizes.head_dim, tile.queries, tile.keys, dropout.aligned),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )
