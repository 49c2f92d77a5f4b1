"""Weights packed for the C++ encoder: once, and used until one of them changes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cofi_kernels.compact_encoder.layout import PRECISIONS, EncoderLayout
from cofi_kernels.compact_encoder.low_precision import check_depth
from cofi_kernels.masked_ffn.activations import ACTIVATIONS
from cofi_kernels.native import load_native
from cofi_kernels.packing import check_bounds

_ACTIVATION_NUMBERS = {name: i for i, name in enumerate(ACTIVATIONS)}  # as csrc/cpu/compact_encoder/kernels.h counts
_version = operator.attrgetter("_version")
_known: Any = WeakIdKeyDictionary()  # first weight -> {precision: PackedEncoder}: gone when the weight is


class PackedEncoder:
    """A copy of an encoder's fp32 weights in the layout of the CPU's microkernels."""

    def __init__(self, weights: Sequence[Tensor], layout: EncoderLayout, n_hidden: int) -> None:
        """Raises ValueError for more hidden dims than int8 can sum over."""
        check_depth("n_hidden", n_hidden, layout.precision)
        self.state = (layout, n_hidden, state_of(weights))
        contiguous = [w.contiguous() for w in weights]
        addresses = [w.data_ptr() for w in contiguous]
        self._samples = load_native().WeightSamples(addresses, [w.numel() for w in contiguous])
        self.native = load_native().CompactEncoder(
            hidden=n_hidden,
            head_dim=layout.head_dim,
            eps=layout.eps,
            activation=_ACTIVATION_NUMBERS[layout.activation],
            precision=PRECISIONS.index(layout.precision),
            heads=layout.heads,
            intermediate=layout.intermediate,
            mha=layout.mha,
            ffn=layout.ffn,
            addresses=addresses,
            threads=torch.get_num_threads(),
        )

    def still_holds(self) -> bool:
        """Whether some elements of the weights are what they were. Only while they are where `state` says."""
        return bool(self._samples.hold())

    def __call__(self, x: Tensor, cu_seqlens: Tensor, max_seqlen: int, overwrite_x: bool = False) -> Tensor:
        """x (T, E) fp32 -> (T, E), which is x itself where that may be overwritten.

        Raises ValueError where cu_seqlens does not describe T rows.
        """
        check_bounds(cu_seqlens.tolist(), max_seqlen, x.shape[0])
        x, cu_seqlens = x.contiguous(), cu_seqlens.contiguous()
        out = x if overwrite_x else torch.empty_like(x)
        self.native.run(
            x.data_ptr(), cu_seqlens.data_ptr(), cu_seqlens.numel() - 1, out.data_ptr(), torch.get_num_threads()
        )
        return out


def find_packed(x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout) -> PackedEncoder | None:
    """What `pack` made of these weights, None where it has not or one has changed since.

    PyTorch counts writes to a tensor, but not those of its fused optimizers and through `weight.data`. These are
    noticed by 16 elements of each weight: a write to a few others, not counted by PyTorch, would be missed.
    """
    anchor = anchor_of(weights)
    known = None if anchor is None else _known.get(anchor, {}).get(layout.precision)
    if known is None or known.state != (layout, x.shape[1], state_of(weights)):
        return None
    return known if known.still_holds() else None


def pack(x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout) -> PackedEncoder:
    """Pack weights, and keep that for as long as the first of them lives."""
    packed = PackedEncoder(weights, layout, x.shape[1])
    anchor = anchor_of(weights)
    may_remember = all(w.is_contiguous() and not w.is_inference() for w in weights if w.numel())
    if anchor is not None and may_remember:
        _known.setdefault(anchor, {})[layout.precision] = packed
    return packed


def anchor_of(weights: Sequence[Tensor]) -> Tensor | None:
    return next((w for w in weights if w.numel()), None)


def state_of(weights: Sequence[Tensor]) -> tuple[Sequence[int], ...]:
    """Where each weight is, how large and in what order, and how often it was written to; 0 for inference tensors,
    which do not count."""
    kept = [w for w in weights if w.numel()]
    # not size and stride, which take 36 us a hundred tensors and these 10: a transposed weight is not contiguous
    place = list(map(Tensor.data_ptr, kept)), list(map(Tensor.numel, kept)), list(map(Tensor.is_contiguous, kept))
    try:
        return *place, list(map(_version, kept))
    except RuntimeError:
        return *place, [0 if w.is_inference() else w._version for w in kept]
