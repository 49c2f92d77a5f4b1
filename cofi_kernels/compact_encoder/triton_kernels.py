"""The encoder on a GPU: sublayers launched with the tiles of `plans.py` on weights of `padded.py`.

bf16 and fp16; what `padded.why_not` names by the reference. T tokens, B sequences, E hidden, stored padded between
sublayers.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import overload

import torch
import triton
from torch import Tensor

from cofi_kernels.compact_encoder import costs, plans, reference, tuning
from cofi_kernels.compact_encoder import sublayer_kernels as kernels
from cofi_kernels.compact_encoder.costs import Gpu, Launch, LinearTile, Rows
from cofi_kernels.compact_encoder.gpus import gpu_of
from cofi_kernels.compact_encoder.kept import KeptCopies, is_capturing
from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.padded import (
    AttentionWeights,
    FfnWeights,
    pad_weights,
    padded_head_dim,
    why_not,
    width_of,
)
from cofi_kernels.launching import launch_options, launching, wants_tuned_plans


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
    """As `reference.forward`."""
    reason = why_not(x, head_dim)
    if reason is not None:
        warnings.warn(f"cofi_kernels: compact_encoder runs on 'reference' here: {reason}", RuntimeWarning, stacklevel=2)
        sizes = (heads, intermediate, mha, ffn)
        return reference.forward(x, cu_seqlens, max_seqlen, weights, *sizes, head_dim, eps, activation, precision)
    layout = EncoderLayout(
        tuple(heads), tuple(intermediate), tuple(mha), tuple(ffn), head_dim, eps, activation, precision
    )
    return _kept.find(x, weights, layout)(x, cu_seqlens, max_seqlen)


class PaddedEncoder:
    """A padded copy of an encoder's weights, on their device, and the launches of its kept sublayers."""

    def __init__(self, weights: Sequence[Tensor], layout: EncoderLayout, n_hidden: int) -> None:
        self.layout = layout
        self.width = width_of(n_hidden)
        self.head_dim = padded_head_dim(layout.head_dim)
        self.sublayers = pad_weights(weights, layout, self.width)
        self.plans: tuning.Table = {}  # what was measured, for those who ask for it
        self._scale = kernels.LOG2_E * layout.head_dim**-0.5

    def fill(self, weights: Sequence[Tensor]) -> None:
        """Take other weights of the same layout, in place."""
        for ours, theirs in zip(self.sublayers, pad_weights(weights, self.layout, self.width), strict=True):
            for old, new in zip(ours[1:], theirs[1:], strict=True):
                old.copy_(new)

    def tensors(self) -> Iterable[Tensor]:
        return [t for sublayer in self.sublayers for t in sublayer[1:]]

    def __call__(self, x: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Tensor:
        """x (T, E) -> (T, E). Rows outside every sequence come out undefined, and touch no other."""
        n_rows, hidden = x.shape
        if not self.sublayers or n_rows == 0:
            return x.clone()
        x, cu_seqlens = x.contiguous(), cu_seqlens.contiguous()
        with torch.cuda.device_of(x):
            if wants_tuned_plans() and not is_capturing(x):
                self.tune(n_rows, cu_seqlens, max_seqlen, x.dtype)
            states = self._pad(x)
            for i, sublayer in enumerate(self.sublayers):
                last = i + 1 == len(self.sublayers)
                out = states.new_empty((n_rows, hidden if last else self.width.padded))
                if isinstance(sublayer, AttentionWeights):
                    self._attention(sublayer, states, cu_seqlens, max_seqlen, out)
                else:
                    self._ffn(sublayer, states, cu_seqlens.numel() - 1, out)
                states = out
        return states

    def tune(
        self,
        n_rows: int,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dtype: torch.dtype,
        measure: tuning.Measure | None = None,
    ) -> None:
        """Measure how to launch every sublayer for T = n_rows in these sequences, once, and keep the fastest."""
        measure = tuning.measure_on(cu_seqlens.device) if measure is None else measure
        with launching(tuned=True):
            self._tune(n_rows, cu_seqlens, max_seqlen, dtype, measure)

    def _tune(
        self, n_rows: int, cu_seqlens: Tensor, max_seqlen: int, dtype: torch.dtype, measure: tuning.Measure
    ) -> None:
        device = cu_seqlens.device
        at, gpu = Rows(n_rows, cu_seqlens.numel() - 1), gpu_of(device)
        x = torch.randn(n_rows, self.width.padded, device=device).to(dtype)
        out = torch.empty_like(x)
        for w in self.sublayers:
            size = self._size_of(w)
            if (at, size, gpu) in self.plans or min(size[0], *at, max_seqlen) == 0:
                continue
            if isinstance(w, AttentionWeights):
                run = functools.partial(self._attention, w, x, cu_seqlens, max_seqlen, out)
                tuning.tune_attention(self.plans, at, self._size_of(w), gpu, run, measure)
            else:
                feed = functools.partial(self._ffn, w, x, at.sequences, out)
                tuning.tune_ffn(self.plans, at, self._size_of(w), gpu, feed, measure)

    @overload
    def _size_of(self, w: AttentionWeights) -> plans.AttentionSize: ...
    @overload
    def _size_of(self, w: FfnWeights) -> plans.FfnSize: ...
    def _size_of(self, w: AttentionWeights | FfnWeights) -> plans.AttentionSize | plans.FfnSize:
        if isinstance(w, AttentionWeights):
            return plans.AttentionSize(w.n_heads, self.head_dim, self.width.padded)
        return plans.FfnSize(w.n_dims, self.width.padded)

    def _plan_attention(self, at: Rows, size: plans.AttentionSize, gpu: Gpu) -> plans.AttentionPlan:
        tuned = self.plans.get((at, size, gpu)) if wants_tuned_plans() else None
        return tuned or plans.plan_attention(at, size, gpu)

    def _plan_ffn(self, at: Rows, size: plans.FfnSize, gpu: Gpu) -> plans.FfnPlan:
        tuned = self.plans.get((at, size, gpu)) if wants_tuned_plans() else None
        return tuned or plans.plan_ffn(at, size, gpu)

    def _pad(self, x: Tensor) -> Tensor:
        n_rows, hidden = x.shape
        if hidden == self.width.padded:
            return x
        out = x.new_empty((n_rows, self.width.padded))
        rows = plans.PAD_ROWS
        kernels.pad_kernel[(triton.cdiv(n_rows, rows),)](
            *(x, out, n_rows, hidden, self.width.padded, rows), num_warps=4, **launch_options(x.device)
        )
        return out

    def launches(self, n_rows: int, n_sequences: int, device: torch.device) -> list[list[Launch]]:
        """What a call of T = n_rows tokens in B = n_sequences launches, a list for each kept sublayer."""
        at, gpu = Rows(n_rows, n_sequences), gpu_of(device)
        found: list[list[Launch]] = []
        for w in self.sublayers:
            if isinstance(w, AttentionWeights) and w.n_heads:
                heads = self._size_of(w)
                found.append(plans.attention_launches(self._plan_attention(at, heads, gpu), at, heads, gpu))
            elif isinstance(w, FfnWeights) and w.n_dims:
                dims = self._size_of(w)
                found.append(plans.ffn_launches(self._plan_ffn(at, dims, gpu), at, dims, gpu))
            else:
                rows = plans.sum_rows(n_rows)
                found.append([costs.finish(n_rows, self.width.padded, 0, costs.PART, rows, gpu)])
        return found

    def _attention(self, w: AttentionWeights, x: Tensor, cu_seqlens: Tensor, max_seqlen: int, out: Tensor) -> None:
        n_rows, n_sequences = x.shape[0], cu_seqlens.numel() - 1
        if w.n_heads == 0 or n_sequences == 0 or max_seqlen == 0:
            self._finish(x.new_empty((0, *x.shape)), x, w.b_out, w.norm, out)
            return
        plan = self._plan_attention(Rows(n_rows, n_sequences), self._size_of(w), gpu_of(x.device))
        n_parts = -(-w.n_heads // plan.heads_per_part)
        qkv = _linear(x, w.w_qkv, w.b_qkv, None, plan.project, transposed=True)
        if plan.mode == "context":
            part = x.new_empty((n_rows, w.n_heads * self.head_dim))
            rows, warps = plans.CONTEXT_ROWS, plans.CONTEXT_WARPS
        else:
            part = x.new_empty((n_parts if plan.mode == "part" else 0, *x.shape), dtype=torch.float32)
            rows, warps = plans.ATTENTION_ROWS, plans.ATTENTION_WARPS
        kernels.attention_kernel[(n_sequences, triton.cdiv(max_seqlen, rows), n_parts)](
            *(qkv, cu_seqlens, x, w.w_out, w.b_out, w.norm, out, part, n_rows, w.n_heads, plan.heads_per_part),
            *(self.width.hidden, self.layout.eps, out.shape[1], self._scale, plan.mode, self.head_dim),
            *(self.width.piece, self.width.n_pieces, rows, plans.ATTENTION_KEYS),
            num_warps=warps,
            num_stages=plans.attention_stages(plan.mode, self.width.padded),
            **launch_options(x.device),
        )
        if plan.mode == "context":
            part = _linear(part, w.w_out, None, None, plan.out, transposed=False)[None]
        if plan.mode != "whole":
            self._finish(part, x, w.b_out, w.norm, out)

    def _ffn(self, w: FfnWeights, x: Tensor, n_sequences: int, out: Tensor) -> None:
        if w.n_dims == 0:
            self._finish(x.new_empty((0, *x.shape)), x, w.b_down, w.norm, out)
            return
        plan = self._plan_ffn(Rows(x.shape[0], n_sequences), self._size_of(w), gpu_of(x.device))
        activation = self.layout.activation
        if plan.mode == "linear":
            h = _linear(x, w.w_up, w.b_up, activation, plan.up, transposed=True)
            part = _linear(h, w.w_down, None, None, plan.down, transposed=False)[None]
            self._finish(part, x, w.b_down, w.norm, out)
            return
        n_parts, tile, is_split = plan.parts, plan.tile, plan.mode == "part"
        part = x.new_empty((n_parts if is_split else 0, *x.shape), dtype=torch.float32)
        kernels.ffn_kernel[(triton.cdiv(x.shape[0], tile.rows), n_parts)](
            *(x, w.w_up, w.b_up, w.w_down, w.b_down, w.norm, out, part, x.shape[0], w.n_dims // n_parts),
            *(self.width.hidden, self.layout.eps, out.shape[1], activation),
            *(self.width.piece, self.width.n_pieces, tile.rows, tile.dims, is_split),
            num_warps=tile.warps,
            num_stages=tile.stages,
            **launch_options(x.device),
        )
        if is_split:
            self._finish(part, x, w.b_down, w.norm, out)

    def _finish(self, parts: Tensor, x: Tensor, bias: Tensor, norm: Tensor, out: Tensor) -> None:
        rows = plans.sum_rows(x.shape[0])
        kernels.finish_kernel[(triton.cdiv(x.shape[0], rows),)](
            *(parts, x, bias, norm, out, x.shape[0], parts.shape[0], self.width.hidden, self.layout.eps, out.shape[1]),
            *(self.width.piece, self.width.n_pieces, rows),
            num_warps=4,
            **launch_options(x.device),
        )


def _linear(
    x: Tensor, w: Tensor, b: Tensor | None, activation: str | None, tile: LinearTile, *, transposed: bool
) -> Tensor:
    """activation(x (T, K) @ w + b); w (K, N), or (N, K) where transposed."""
    depth, n_columns = x.shape[1], w.shape[0 if transposed else 1]
    out = x.new_empty((x.shape[0], n_columns))
    kernels.linear_kernel[(triton.cdiv(x.shape[0], tile.rows), triton.cdiv(n_columns, tile.columns))](
        *(x, w, b, out, x.shape[0], n_columns, depth, activation, transposed),
        *(tile.rows, tile.columns, plans.depth_of(tile, depth)),
        num_warps=tile.warps,
        num_stages=tile.stages,
        **launch_options(x.device),
    )
    return out


_kept: KeptCopies[PaddedEncoder] = KeptCopies(PaddedEncoder)
