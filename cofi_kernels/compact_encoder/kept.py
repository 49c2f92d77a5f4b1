"""Copies of an encoder's weights in another layout, on their device: made once, filled anew when a weight changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.packed import anchor_of, state_of


class Witness:
    """What the weights were when a copy of them was made: where they are, how often written to, and their norms."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._state, self._norms = state_of(weights), norms(weights)

    def counts_no_write(self, weights: Sequence[Tensor]) -> bool:
        """Whether they are where they were, and PyTorch counted no write to one. It does not count every write."""
        return self._state == state_of(weights)

    def agrees(self, weights: Sequence[Tensor]) -> bool:
        """Whether they are that still, by their norms as well: it reads them all and waits for the answer."""
        return self.counts_no_write(weights) and torch.equal(self._norms, norms(weights))


class Copy(Protocol):
    """An encoder with a copy of its weights."""

    def fill(self, weights: Sequence[Tensor]) -> None:
        """Take other weights of the same layout, in place."""


C = TypeVar("C", bound=Copy)


class _Kept(NamedTuple):
    copy: Any
    witness: Witness


class KeptCopies(Generic[C]):
    """The copies that `make` has made. They stay where they are as long as the first weight lives: graphs read them.

    Who makes or fills a copy waits for that before another can find it. So any stream may read what is found, and so
    may a capture, in which an event of another stream could not be waited for.
    """

    def __init__(self, make: Callable[..., C]) -> None:
        """make: (weights, layout, hidden size, *how) -> a copy."""
        self._make = make
        self._known: Any = WeakIdKeyDictionary()  # first weight -> {what a copy was made for: the copy, its witness}
        self._lock = threading.Lock()

    def find(self, x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout, *how: Any) -> C:
        """A copy made for x (T, E) and `how`. One that a capture does not find the graph makes, at each replay."""
        anchor = anchor_of(weights)
        key = (layout, x.shape[1], x.dtype, x.device, *how)
        kept = self._get(anchor, key)
        if is_capturing(x):
            if kept is not None and kept.witness.counts_no_write(weights):
                return kept.copy
            return self._make(weights, layout, x.shape[1], *how)
        if kept is not None and kept.witness.agrees(weights):
            return kept.copy
        with self._lock, torch.inference_mode(False), torch.no_grad():  # inference tensors could not be filled outside
            kept = self._get(anchor, key)
            if kept is not None and kept.witness.agrees(weights):  # another thread was faster
                return kept.copy
            copy = self._renew(kept, weights, layout, x.shape[1], *how)
            witness = Witness(weights)
            wait_for(x.device)
            if anchor is not None:
                self._known.setdefault(anchor, {})[key] = _Kept(copy, witness)
            return copy

    def _get(self, anchor: Tensor | None, key: Any) -> _Kept | None:
        return None if anchor is None else self._known.get(anchor, {}).get(key)

    def _renew(
        self, kept: _Kept | None, weights: Sequence[Tensor], layout: EncoderLayout, n_hidden: int, *how: Any
    ) -> C:
        if kept is None:
            return self._make(weights, layout, n_hidden, *how)
        kept.copy.fill(weights)
        return kept.copy


def norms(weights: Sequence[Tensor]) -> Tensor:
    """Of every weight the Euclidean norm, fp32: a few launches for all."""
    kept = [w.detach() for w in weights if w.numel()]
    return torch.stack(list(torch._foreach_norm(kept, 2, dtype=torch.float32))) if kept else torch.zeros(0)


def wait_for(device: torch.device) -> None:
    """Until what this thread's current stream was given is done."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def is_capturing(t: Tensor) -> bool:
    """Whether what is done to t now becomes part of a graph."""
    if not t.is_cuda:
        return False
    with torch.cuda.device(t.device):
        return torch.cuda.is_current_stream_capturing()
