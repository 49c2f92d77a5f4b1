"""Masked attention on the CPU that computes live heads only.

Inside the sequences the compiled core (`core.py`) does the work in fp32. In other dtypes, and without it, sequences are
attended to in groups of like length, so that little padding is computed and a group's scores stay in cache. The
workspaces kept for the backward are filled from the front, qkv as (T, 3, n_live, D), the context as (T, n_live, D) and,
by the core, lse as (n_live, T). Memory that is never touched costs nothing. Forward and backward must run on the same
backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.counter_rng.ranges import keep_range
from cofi_kernels.gathering import OutputProjection, is_dead, live_units, put_back, take, take_mask, zero_gradients
from cofi_kernels.masked_attention.core import Core, is_compiled
from cofi_kernels.masking import accumulation_dtype, mask_gradient
from cofi_kernels.packing import Group, length_groups
from cofi_kernels.products import matmul


class Sizes(NamedTuple):
    """T tokens, H heads and the live ones of them (None: all), D head dim, S longest sequence."""

    n_tokens: int
    n_heads: int
    live: Tensor | None
    head_dim: int
    max_seqlen: int

    @property
    def n_live(self) -> int:
        return self.n_heads if self.live is None else self.live.numel()

    def prefixes(self, qkv: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """The parts of the flat workspaces in use: qkv (T, 3, n_live, D) and context (T, n_live, D)."""
        shape = (self.n_live, self.head_dim)
        n_elements = self.n_tokens * self.n_live * self.head_dim
        return qkv[: 3 * n_elements].view(self.n_tokens, 3, *shape), context[:n_elements].view(self.n_tokens, *shape)

    def rows(self) -> Tensor | None:
        """Weight rows of the live heads."""
        if self.live is None:
            return None
        return (self.live[:, None] * self.head_dim + torch.arange(self.head_dim)).flatten()


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
    """As `reference.forward`, with the workspaces packed as described above."""
    w_qkv, b_qkv, w_out, b_out = (t.to(x.dtype) for t in (w_qkv, b_qkv, w_out, b_out))
    n_tokens, width = x.shape[0], w_out.shape[0]
    workspaces = (x.new_empty(n_tokens * 3 * width), x.new_empty(n_tokens * width))
    lse = x.new_zeros(width // head_dim * n_tokens, dtype=accumulation_dtype(x.dtype))
    if is_dead(z_mha):
        return torch.zeros_like(x, memory_format=torch.contiguous_format), *workspaces, lse, x.new_empty(0)
    sizes = Sizes(n_tokens, width // head_dim, live_units(z_head, n_tokens), head_dim, max_seqlen)
    qkv, context = sizes.prefixes(*workspaces)
    weight, bias = (take(t, sizes.rows(), dim=1).flatten(0, 1) for t in (w_qkv, b_qkv))
    matmul(x, weight.t(), bias, out=qkv.flatten(1))
    if is_compiled(x):
        Core(sizes, cu_seqlens, dropout_p, dropout_state).forward(qkv, context, lse)
    else:
        keep = _kept(sizes, dropout_p, dropout_state)
        for group in length_groups(cu_seqlens, max_seqlen, n_tokens, sizes.n_live):
            _attend(group, qkv, context, keep)
    projection = _output_projection(sizes, w_out, b_out, z_head, z_mha, z_hidden)
    return projection.forward(context.flatten(1)), *workspaces, lse, x.new_empty(0)


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
    """As `reference.backward`, from this module's workspaces."""
    if is_dead(z_mha):
        shapes = (w_qkv.shape, w_qkv.shape[:2], w_out.shape, b_out.shape)
        return x.new_zeros(x.shape), *zero_gradients(shapes, (z_head, z_mha, z_hidden), w_qkv)
    weight_dtype = w_qkv.dtype
    w_qkv, w_out, b_out = (t.to(x.dtype) for t in (w_qkv, w_out, b_out))
    n_tokens, width = x.shape[0], w_out.shape[0]
    sizes = Sizes(n_tokens, width // head_dim, live_units(z_head, n_tokens), head_dim, max_seqlen)
    qkv, context = sizes.prefixes(qkv, context)
    projection = _output_projection(sizes, w_out, b_out, z_head, z_mha, z_hidden)
    grads = projection.gradients(dy, context.flatten(1))
    dcontext = projection.input_gradient(dy).view_as(context)
    dqkv = torch.empty_like(qkv)
    if is_compiled(x):
        Core(sizes, cu_seqlens, dropout_p, dropout_state).backward(qkv, context, lse, dcontext, dqkv)
    else:
        keep = _kept(sizes, dropout_p, dropout_state)
        for group in length_groups(cu_seqlens, max_seqlen, n_tokens, sizes.n_live):
            _attend_backward(group, qkv, dcontext, dqkv, keep)
    dqkv, rows = dqkv.flatten(1), sizes.rows()
    weight = take(w_qkv, rows, dim=1)
    dw_qkv = put_back(matmul(dqkv.t(), x).view_as(weight), rows, width, dim=1)
    db_qkv = put_back(dqkv.sum(0).view(weight.shape[:2]), rows, width, dim=1)
    dz_head = x.new_empty(0) if z_head is None else _head_gradient(sizes, grads.dz_unit, z_head)
    projected = (put_back(grads.dweight, rows, width), grads.dbias)
    weights = (t.to(weight_dtype) for t in (dw_qkv, db_qkv, *projected))
    return matmul(dqkv, weight.flatten(0, 1)), *weights, dz_head, grads.dz_layer, grads.dz_hidden


def _output_projection(
    sizes: Sizes,
    w_out: Tensor,
    b_out: Tensor,
    z_head: Tensor | None,
    z_mha: Tensor | None,
    z_hidden: Tensor | None,
) -> OutputProjection:
    z_live = take_mask(z_head, sizes.live)
    z_unit = None if z_live is None else z_live.repeat_interleave(sizes.head_dim)
    return OutputProjection(take(w_out, sizes.rows()), b_out, z_unit, z_mha, z_hidden)


def _head_gradient(sizes: Sizes, dz_row: Tensor, z_head: Tensor) -> Tensor:
    """dz_head (H,) from the gradients of the factors of W_out's live rows."""
    per_head = dz_row.view(sizes.n_live, sizes.head_dim).sum(1)
    return put_back(mask_gradient(per_head, take(z_head, sizes.live)), sizes.live, sizes.n_heads)


Keep = Callable[[Group], Tensor]  # what dropout multiplies a group's probabilities with, (b * H, n, n)


def _kept(sizes: Sizes, dropout_p: float, dropout_state: Tensor | None) -> Keep | None:
    """Dropout of the probabilities, drawn one live head at a time: its elements are one range of the counter."""
    if dropout_p == 0.0 or dropout_state is None:
        return None
    per_head = sizes.n_tokens * sizes.max_seqlen
    heads = range(sizes.n_heads) if sizes.live is None else sizes.live.tolist()
    keep = torch.empty((sizes.n_live, sizes.n_tokens, sizes.max_seqlen), dtype=torch.bool)
    for i, head in enumerate(heads):
        keep[i] = keep_range(dropout_state, head * per_head, per_head, dropout_p).view(keep.shape[1:])

    def of_group(group: Group) -> Tensor:
        b, n = group.n_sequences, group.seqlen
        kept = group.take(keep.transpose(0, 1))[..., :n].view(b, n, sizes.n_live, n)
        return kept.transpose(1, 2).reshape(b * sizes.n_live, n, n) / (1.0 - dropout_p)

    return of_group


def _attend(group: Group, qkv: Tensor, context: Tensor, keep: Keep | None) -> None:
    """Write the group's rows of the context (T, H, D) from qkv (T, 3, H, D)."""
    q, k, v = _by_head(group, group.take(qkv))
    p = _probabilities(group, q, k)
    if keep is not None:
        p = p.mul_(keep(group))
    group.put(_by_token(group, torch.bmm(p, v)), context)


def _attend_backward(group: Group, qkv: Tensor, dcontext: Tensor, dqkv: Tensor, keep: Keep | None) -> None:
    """Write the group's rows of dqkv (T, 3, H, D)."""
    q, k, v = _by_head(group, group.take(qkv))
    (dc,) = _by_head(group, group.take(dcontext)[:, None])
    queries = group.query_mask()
    if queries is not None:  # a repeated row is no query of its own
        dc = dc.view(group.n_sequences, -1, *dc.shape[1:]).masked_fill(~queries, 0.0).view_as(dc)
    p = _probabilities(group, q, k)
    kept = None if keep is None else keep(group).to(p.dtype)
    grads = q.new_empty((3, *q.shape))
    torch.bmm((p if kept is None else p * kept).transpose(1, 2), dc, out=grads[2])
    dp = torch.bmm(dc, v.transpose(1, 2))
    dp = dp if kept is None else dp.mul_(kept)
    ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
    scale = q.shape[-1] ** -0.5
    torch.baddbmm(grads[0], ds, k, beta=0, alpha=scale, out=grads[0])
    torch.baddbmm(grads[1], ds.transpose(1, 2), q, beta=0, alpha=scale, out=grads[1])
    group.put(torch.stack([_by_token(group, grad) for grad in grads], dim=1), dqkv)


def _probabilities(group: Group, q: Tensor, k: Tensor) -> Tensor:
    """Softmax over each query's own sequence, (b * H, n, n)."""
    scores = torch.baddbmm(q.new_empty(()), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5)
    mask = group.key_mask()
    if mask is not None:
        scores.view(group.n_sequences, -1, *scores.shape[1:]).masked_fill_(~mask, float("-inf"))
    return torch.softmax(scores, -1)


def _by_head(group: Group, rows: Tensor) -> Tensor:
    """(b * n, parts, H, D) -> (parts, b * H, n, D), contiguous."""
    parts, n_heads, head_dim = rows.shape[1:]
    rows = rows.reshape(group.n_sequences, group.seqlen, parts, n_heads, head_dim).permute(2, 0, 3, 1, 4)
    return rows.reshape(parts, group.n_sequences * n_heads, group.seqlen, head_dim)


def _by_token(group: Group, heads: Tensor) -> Tensor:
    """(b * H, n, D) -> (b * n, H, D)."""
    heads = heads.view(group.n_sequences, -1, *heads.shape[1:])
    return heads.transpose(1, 2).reshape(group.n_sequences * group.seqlen, heads.shape[1], heads.shape[3])
