"""The gradient of flash_forward.py in Triton, without atomics: the same result at every run.

With dc the gradient of c, which holds z_head, delta = rowsum(dc c), and the counter's k in {0, 1 / (1 - p)}:

    dv = (p k)^T dc    ds = p (k (dc v^T) - delta)    dq = ds k / sqrt(D)    dk = ds^T q / sqrt(D)
    dz_head = sum_t delta / z_head

Where one block of keys holds every sequence, one kernel makes all three in one pass: a program has all keys of a
sequence's head. For longer sequences a second kernel makes dq, and the scores once more: 7 products instead of 5.
Scores are kept transposed, keys in rows: so two of the three products that follow take them from registers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng.triton_kernels import keep_rows
from cofi_kernels.grids import multiprocessors
from cofi_kernels.masked_attention import flash_blocks
from cofi_kernels.masked_attention.flash_blocks import (
    Sizes,
    block_of_slot,
    dropout_of,
    first_elements,
    load_rows,
    product,
    store_rows,
)
from cofi_kernels.masked_attention.flash_tiles import Tile, keys_tile, queries_tile

LOG2_E = tl.constexpr(flash_blocks.LOG2_E)
_SUM_ROWS = 256  # of partial sums added together


@triton.jit(do_not_specialize=["n_tokens", "n_sequences", "n_heads", "max_seqlen", "threshold"])
def _attention_bwd_kernel(
    qkv_ptr,
    context_ptr,
    dc_ptr,
    lse_ptr,
    heads_ptr,
    n_live_ptr,
    cu_seqlens_ptr,
    state_ptr,
    dqkv_ptr,
    sums_ptr,
    bias_sums_ptr,
    n_tokens,
    n_sequences,
    n_heads,
    max_seqlen,
    threshold,
    keep_scale,
    sm_scale,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """dk and dv of a block of keys; with WHOLE, where the block has all keys, also dq, sums (B, H) of delta, and
    bias_sums (B, 3 H D), those of dqkv, in their rows' places.
    """
    n_live = tl.load(n_live_ptr)
    n_items = n_sequences * n_live if WHOLE else (n_tokens // BLOCK_N + n_sequences) * n_live
    context_stride, third = n_heads * D, n_live * D
    stride = 3 * context_stride
    for item in range(tl.program_id(0), n_items, tl.num_programs(0)):
        unit = item % n_live
        if WHOLE:
            start, length = _sequence(cu_seqlens_ptr, item // n_live, n_tokens)
            first = 0
        else:
            start, length, first = block_of_slot(cu_seqlens_ptr, item // n_live, n_sequences, n_tokens, BLOCK_N)
        key = first + tl.arange(0, BLOCK_N)
        q_ptr = qkv_ptr + start.to(tl.int64) * stride + unit * D
        dq_ptr = dqkv_ptr + start.to(tl.int64) * stride + unit * D
        context_offset = start.to(tl.int64) * context_stride + unit * D
        head = tl.load(heads_ptr + unit)
        k = load_rows(q_ptr + third, key, length, stride, D)
        v = load_rows(q_ptr + 2 * third, key, length, stride, D)
        dk, dv = tl.zeros((BLOCK_N, D), tl.float32), tl.zeros((BLOCK_N, D), tl.float32)
        dz, sum_dq = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((D,), tl.float32)
        for first_row in range(0, length, BLOCK_M):
            row = first_row + tl.arange(0, BLOCK_M)
            q = load_rows(q_ptr, row, length, stride, D)
            dc = load_rows(dc_ptr + context_offset, row, length, context_stride, D)
            context = load_rows(context_ptr + context_offset, row, length, context_stride, D)
            delta = tl.sum(dc.to(tl.float32) * context.to(tl.float32), 1)
            lse_ptrs = lse_ptr + unit.to(tl.int64) * n_tokens + start + row
            lse = tl.load(lse_ptrs, mask=row < length, other=float("inf"))
            p = product(k, tl.trans(q), tl.zeros((BLOCK_N, BLOCK_M), tl.float32))
            p = tl.where((key < length)[:, None], tl.exp2(p * (sm_scale * LOG2_E) - lse[None, :]), 0.0)
            dp = product(v, tl.trans(dc), tl.zeros((BLOCK_N, BLOCK_M), tl.float32))
            kept_p = p
            if state_ptr is not None:
                element = first_elements(head, start + row, n_tokens, max_seqlen) + first
                keep = tl.trans(keep_rows(state_ptr, element, threshold, BLOCK_N, ALIGNED))
                kept_p, dp = tl.where(keep, p, 0.0), tl.where(keep, dp * keep_scale, 0.0)
            dv = product(kept_p.to(dc.dtype), dc, dv)
            ds = (p * (dp - delta[None, :])).to(q.dtype)
            dk = product(ds, q, dk)
            if WHOLE:
                dz += delta
                dq = product(tl.trans(ds), k, tl.zeros((BLOCK_M, D), tl.float32)) * sm_scale
                store_rows(dq_ptr, row, length, stride, dq, D)
                sum_dq += tl.sum(dq, 0)
        dk, dv = dk * sm_scale, dv * keep_scale
        store_rows(dq_ptr + third, key, length, stride, dk, D)
        store_rows(dq_ptr + 2 * third, key, length, stride, dv, D)
        if WHOLE:
            tl.store(sums_ptr + (item // n_live) * n_heads + unit, tl.sum(dz))
            bias_sums_ptrs = bias_sums_ptr + (item // n_live).to(tl.int64) * stride + unit * D + tl.arange(0, D)
            tl.store(bias_sums_ptrs, sum_dq)
            tl.store(bias_sums_ptrs + third, tl.sum(dk, 0))
            tl.store(bias_sums_ptrs + 2 * third, tl.sum(dv, 0))


@triton.jit
def _sequence(cu_seqlens_ptr, b, n_tokens):
    """First token and length of a sequence, clamped to the tokens there are."""
    start = tl.minimum(tl.maximum(tl.load(cu_seqlens_ptr + b), 0), n_tokens)
    return start, tl.minimum(tl.maximum(tl.load(cu_seqlens_ptr + b + 1), start), n_tokens) - start


@triton.jit(do_not_specialize=["n_tokens", "n_sequences", "n_heads", "max_seqlen", "threshold"])
def _attention_bwd_dq_kernel(
    qkv_ptr,
    context_ptr,
    dc_ptr,
    lse_ptr,
    heads_ptr,
    n_live_ptr,
    cu_seqlens_ptr,
    state_ptr,
    dqkv_ptr,
    sums_ptr,
    n_tokens,
    n_sequences,
    n_heads,
    max_seqlen,
    threshold,
    keep_scale,
    sm_scale,
    D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """dq of a block of queries, and sums (slots, H) of delta."""
    n_live = tl.load(n_live_ptr)
    n_items = (n_tokens // BLOCK_M + n_sequences) * n_live
    context_stride, third = n_heads * D, n_live * D
    stride = 3 * context_stride
    for item in range(tl.program_id(0), n_items, tl.num_programs(0)):
        unit = item % n_live
        start, length, first = block_of_slot(cu_seqlens_ptr, item // n_live, n_sequences, n_tokens, BLOCK_M)
        row = first + tl.arange(0, BLOCK_M)
        q_ptr = qkv_ptr + start.to(tl.int64) * stride + unit * D
        context_offset = start.to(tl.int64) * context_stride + unit * D
        head = tl.load(heads_ptr + unit)
        q = load_rows(q_ptr, row, length, stride, D)
        dc = load_rows(dc_ptr + context_offset, row, length, context_stride, D)
        context = load_rows(context_ptr + context_offset, row, length, context_stride, D)
        delta = tl.sum(dc.to(tl.float32) * context.to(tl.float32), 1)
        lse_ptrs = lse_ptr + unit.to(tl.int64) * n_tokens + start + row
        lse = tl.load(lse_ptrs, mask=row < length, other=float("inf"))
        element = first_elements(head, start + row, n_tokens, max_seqlen)
        dq = tl.zeros((BLOCK_M, D), tl.float32)
        for first_key in range(0, length, BLOCK_N):
            key = first_key + tl.arange(0, BLOCK_N)
            k = load_rows(q_ptr + third, key, length, stride, D)
            v = load_rows(q_ptr + 2 * third, key, length, stride, D)
            p = product(q, tl.trans(k), tl.zeros((BLOCK_M, BLOCK_N), tl.float32))
            p = tl.where((key < length)[None, :], tl.exp2(p * (sm_scale * LOG2_E) - lse[:, None]), 0.0)
            dp = product(dc, tl.trans(v), tl.zeros((BLOCK_M, BLOCK_N), tl.float32))
            if state_ptr is not None:
                keep = keep_rows(state_ptr, element + first_key, threshold, BLOCK_N, ALIGNED)
                dp = tl.where(keep, dp * keep_scale, 0.0)
            dq = product((p * (dp - delta[:, None])).to(k.dtype), k, dq)
        dq_ptr = dqkv_ptr + start.to(tl.int64) * stride + unit * D
        store_rows(dq_ptr, row, length, stride, dq * sm_scale, D)
        tl.store(sums_ptr + (item // n_live) * n_heads + unit, tl.sum(delta))


@triton.jit(do_not_specialize=["n_sums", "n_heads"])
def _head_gradients_kernel(
    sums_ptr, heads_ptr, n_live_ptr, z_head_ptr, dz_head_ptr, n_sums, n_heads, ROWS: tl.constexpr, HEADS: tl.constexpr
):
    """One program a head: its column of sums (n_sums, H), live heads first, over z_head; 0 for a dead head."""
    head, unit = tl.program_id(0), tl.arange(0, HEADS)
    n_live = tl.load(n_live_ptr)
    found = (tl.load(heads_ptr + unit, mask=unit < n_live, other=-1) == head).to(tl.int32)
    column = tl.sum(found * unit)
    total = tl.zeros((ROWS,), tl.float32)
    for first in range(0, n_sums * tl.sum(found), ROWS):
        row = first + tl.arange(0, ROWS)
        total += tl.load(sums_ptr + row * n_heads + column, mask=row < n_sums, other=0.0)
    z = tl.load(z_head_ptr + head).to(tl.float32)
    dz = tl.where(z == 0.0, 0.0, tl.sum(total) / tl.where(z == 0.0, 1.0, z))
    tl.store(dz_head_ptr + head, dz.to(dz_head_ptr.dtype.element_ty))


def backward(
    qkv: Tensor,
    context: Tensor,
    lse: Tensor,
    dc: Tensor,
    heads: Tensor,
    n_live: Tensor,
    cu_seqlens: Tensor,
    sizes: Sizes,
    z_head: Tensor | None,
    dropout_p: float,
    dropout_state: Tensor | None,
    dqkv: Tensor,
    dz_head: Tensor | None,
) -> Tensor | None:
    """Write dqkv, laid out as qkv, and dz_head (H,), 0 for dead heads, where that is there.

    Returns sums of dqkv over tokens, (B, 3 H D) fp32, whose columns are those of dqkv, where they fell out of it.

    qkv, context, lse, heads, n_live: as `flash_forward.forward` took and left them
    dc: laid out as context, its gradient; z_head is contiguous
    """
    dropout = dropout_of(dropout_p, dropout_state, sizes.max_seqlen)
    tile, whole = keys_tile(sizes.head_dim, qkv.dtype, dropout.aligned, sizes.max_seqlen)
    slots = sizes.n_sequences if whole else sizes.slots(tile.keys)
    sums, bias_sums = lse.new_empty(slots * sizes.n_heads), lse.new_empty(slots if whole else 0, dqkv.shape[1])
    tensors = (qkv, context, dc, lse, heads, n_live, cu_seqlens.contiguous(), dropout.state, dqkv)
    numbers = (sizes.n_tokens, sizes.n_sequences, sizes.n_heads, sizes.max_seqlen, dropout.threshold, dropout.scale)
    scale = (sizes.head_dim**-0.5, sizes.head_dim)
    with torch.cuda.device_of(qkv):
        _launch(
            _attention_bwd_kernel,
            tile,
            sums,
            *tensors,
            sums,
            bias_sums,
            *numbers,
            *scale,
            flags=(dropout.aligned, whole),
        )
        if not whole:
            tile = queries_tile(sizes.head_dim, qkv.dtype, dropout.aligned)
            slots = sizes.slots(tile.queries)
            sums = lse.new_empty(slots * sizes.n_heads)
            _launch(_attention_bwd_dq_kernel, tile, sums, *tensors, sums, *numbers, *scale, flags=(dropout.aligned,))
        if z_head is not None and sizes.n_heads > 0:
            padded = triton.next_power_of_2(sizes.n_heads)
            _head_gradients_kernel[(sizes.n_heads,)](
                sums, heads, n_live, z_head, dz_head, slots, sizes.n_heads, _SUM_ROWS, padded, num_warps=4
            )
    return bias_sums if whole else None


def _launch(kernel: Any, tile: Tile, items: Tensor, *arguments: Any, flags: tuple[bool, ...]) -> None:
    """Run a kernel whose pieces of work are as many as `items` has elements."""
    if items.numel() > 0:
        grid = (tile.programs(items.numel(), multiprocessors(items.device)),)
        kernel[grid](*arguments, tile.queries, tile.keys, *flags, num_warps=tile.warps, num_stages=tile.stages)
