"""The encoder on a GPU as one persistent kernel (csrc/cuda/compact_encoder), where a plan takes the shape.

bf16 and fp16. What no plan takes runs on the Triton kernels, with a warning that gives the reason; other dtypes by the
reference. T tokens, B sequences, E hidden.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cofi_kernels.compact_encoder import reference
from cofi_kernels.compact_encoder.fragments import pack_fragments
from cofi_kernels.compact_encoder.kept import KeptCopies, is_capturing
from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.padded import DTYPES, why_not
from cofi_kernels.implementations import why_not_triton
from cofi_kernels.masked_ffn.activations import ACTIVATIONS
from cofi_kernels.native import load_cuda

_ACTIVATION_NUMBERS = {name: i for i, name in enumerate(ACTIVATIONS)}  # as csrc/cuda/compact_encoder/sizes.h counts
_MOST_PLANS = 1024  # of an encoder: one for each size of batch, a few kB each
# The tables of plans on their devices, whichever encoder they were first for. Never dropped: captured graphs read them.
# They go by layout and tile, not by the batch: 1,350 sizes of batch share 8 tables at 95 %, 97 kB together, and 7 at
# 60 %, 0.6 MB.
_tables: dict[tuple[bytes, torch.device], Tensor] = {}


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
    sizes = (heads, intermediate, mha, ffn)
    arguments = (x, cu_seqlens, max_seqlen, weights, *sizes, head_dim, eps, activation, precision)
    if x.dtype not in DTYPES:
        return reference.forward(*arguments)
    layout = EncoderLayout(
        tuple(heads), tuple(intermediate), tuple(mha), tuple(ffn), head_dim, eps, activation, precision
    )
    plan = plan_of(layout, x, cu_seqlens, max_seqlen)
    if plan.refusal:
        return _otherwise(plan.refusal, head_dim, arguments)
    return _kept.find(x, weights, layout, plan.heads, plan.is_wide)(x, cu_seqlens, plan)


def _otherwise(refusal: str, head_dim: int, arguments: tuple[Any, ...]) -> Tensor:
    other = "reference" if why_not_triton() or why_not(arguments[0], head_dim) else "triton"
    message = f"cofi_kernels: compact_encoder runs on '{other}' here: its persistent kernel {refusal}"
    warnings.warn(message, RuntimeWarning, stacklevel=2)
    if other == "reference":
        return reference.forward(*arguments)
    from cofi_kernels.compact_encoder import triton_kernels

    return triton_kernels.forward(*arguments)


def plan_of(layout: EncoderLayout, x: Tensor, cu_seqlens: Tensor, max_seqlen: int) -> Any:
    """The plan (`_cuda.EncoderPlan`) for a batch of such sizes; its `refusal` is empty where there is one."""
    batch = (x.shape[0], cu_seqlens.numel() - 1, max_seqlen)
    return _plan(layout, x.shape[1], x.device, batch)


@functools.lru_cache(maxsize=_MOST_PLANS)
def _plan(layout: EncoderLayout, n_hidden: int, device: torch.device, batch: tuple[int, int, int]) -> Any:
    return load_cuda().encoder_plan(
        hidden=n_hidden,
        head_dim=layout.head_dim,
        eps=layout.eps,
        activation=_ACTIVATION_NUMBERS[layout.activation],
        heads=layout.heads,
        intermediate=layout.intermediate,
        mha=layout.mha,
        ffn=layout.ffn,
        gpu=_gpu(device),
        batch=batch,
    )


@functools.cache
def _gpu(device: torch.device) -> tuple[int, ...]:
    """Multiprocessors, bytes of shared memory of a thread block, thread blocks of a cluster; then how many clusters of
    1, 2, 4 and 8 run at once."""
    with torch.cuda.device(device):
        return tuple(load_cuda().encoder_gpu())


class PersistentEncoder:
    """An encoder's weights in the kernel's order, on their device, for plans of so many heads a group, wide or not."""

    def __init__(
        self, weights: Sequence[Tensor], layout: EncoderLayout, n_hidden: int, heads: int, is_wide: bool
    ) -> None:
        self._order = (layout, n_hidden, heads, is_wide)
        self._fragments = pack_fragments(weights, *self._order)

    def fill(self, weights: Sequence[Tensor]) -> None:
        """Take other weights of the same layout, in place."""
        packed = pack_fragments(weights, *self._order)
        for old, new in zip(self._fragments, packed, strict=True):
            old.copy_(new)

    def tensors(self) -> Iterable[Tensor]:
        return self._fragments

    def __call__(self, x: Tensor, cu_seqlens: Tensor, plan: Any) -> Tensor:
        """x (T, E) -> (T, E). Rows outside every sequence come out undefined, and touch no other."""
        n_rows, n_sequences = x.shape[0], cu_seqlens.numel() - 1
        layout = self._order[0]
        if n_rows == 0 or n_sequences == 0 or not (any(layout.mha) or any(layout.ffn)):
            return x.clone()
        x, cu_seqlens = x.contiguous(), cu_seqlens.contiguous()
        out = torch.empty_like(x)
        blocks, vectors = self._fragments
        sublayers, stages = _table_at(x, plan.sublayers), _table_at(x, plan.stages)
        run(
            plan,
            x=x.data_ptr(),
            out=out.data_ptr(),
            bounds=cu_seqlens.data_ptr(),
            weights=blocks.data_ptr(),
            vectors=vectors.data_ptr(),
            sublayers=sublayers.data_ptr(),
            stages=stages.data_ptr(),
            rows=n_rows,
            sequences=n_sequences,
            is_fp16=x.dtype == torch.float16,
            device=x.device,
        )
        return out


def _table_at(x: Tensor, table: bytes) -> Tensor:
    """A table of a plan on the device of x. Raises RuntimeError in a capture for one that is not there yet."""
    key = (table, x.device)
    if key not in _tables:
        if is_capturing(x):
            raise RuntimeError(
                f"compact_encoder's persistent kernel has no tables on {x.device} for this batch of {x.shape[0]} "
                "tokens, and a capture cannot copy them there: call it once with these sizes before capturing"
            )
        copied = torch.from_numpy(np.frombuffer(table, np.int32).copy()).to(x.device)
        _tables.setdefault(key, copied)  # the first of two threads: a graph may read its own
    return _tables[key]


def run(plan: Any, *, device: torch.device, **arguments: Any) -> None:
    """Launch on the device's current stream."""
    with torch.cuda.device(device):
        load_cuda().encoder_run(plan, stream=torch.cuda.current_stream().cuda_stream, **arguments)


_kept: KeptCopies[PersistentEncoder] = KeptCopies(PersistentEncoder)
