"""Copies of an encoder's weights in another layout, on their device: made once, filled anew when a weight changes."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.packed import state_of


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

    def tensors(self) -> Iterable[Tensor]:
        """What the copy consists of."""


C = TypeVar("C", bound=Copy)


class _Kept(NamedTuple):
    copy: Any
    witness: Witness
    weights: list[weakref.ref[Tensor]]  # the first that goes takes the copy with it
    streams: set[Any]  # that are known to read it


class KeptCopies(Generic[C]):
    """The copies that `make` has made. They stay where they are as long as all their weights live: graphs read them.

    Weights are the same where all are the same objects. Two encoders that share one weight, of a frozen layer say, have
    a copy each: filled with the other's weights, one would change under a graph that reads it.

    Who makes or fills a copy waits for that before another can find it. So any stream may read what is found, and so
    may a capture, in which an event of another stream could not be waited for.
    """

    def __init__(self, make: Callable[..., C]) -> None:
        """make: (weights, layout, hidden size, *how) -> a copy."""
        self._make = make
        self._known: dict[Any, _Kept] = {}  # by the ids of the weights, all of which live, and what it was made for
        self._lock = threading.Lock()

    def find(self, x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout, *how: Any) -> C:
        """A copy made for x (T, E) and `how`. One that a capture does not find the graph makes, at each replay."""
        ids = tuple(id(w) for w in weights if w.numel())
        key = (ids, layout, x.shape[1], x.dtype, x.device, *how)
        kept = self._known.get(key)
        if is_capturing(x):
            if kept is not None and kept.witness.counts_no_write(weights):
                return kept.copy
            return self._make(weights, layout, x.shape[1], *how)
        if kept is None or not kept.witness.agrees(weights):
            kept = self._renewed(key, x, weights, layout, *how)
        if x.is_cuda:
            _keep_for_this_stream(kept, x.device)
        return kept.copy

    def _renewed(self, key: Any, x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout, *how: Any) -> _Kept:
        with self._lock, torch.inference_mode(False), torch.no_grad():  # inference tensors could not be filled outside
            kept = self._known.get(key)
            if kept is not None and kept.witness.agrees(weights):  # another thread was faster
                return kept
            if kept is None:
                copy = self._make(weights, layout, x.shape[1], *how)
            else:
                copy = kept.copy
                copy.fill(weights)
            kept = _Kept(copy, Witness(weights), self._watch(key, weights), set())
            wait_for(x.device)
            if kept.weights:
                self._known[key] = kept
            return kept

    def _watch(self, key: Any, weights: Sequence[Tensor]) -> list[weakref.ref[Tensor]]:
        """What forgets the copy as soon as one of them goes: its id may become another's then, and copies of weights
        made for a call would pile up."""

        def forget(_: weakref.ref[Tensor]) -> None:
            self._known.pop(key, None)

        return [weakref.ref(w, forget) for w in weights if w.numel()]


def _keep_for_this_stream(kept: _Kept, device: torch.device) -> None:
    """The copy's memory, once it goes, is no other's before this thread's current stream has done what it was given.

    By itself it waits only for the stream on which the copy was made. A stream that it was told of it remembers until
    then, so each is named once: a Triton encoder has some hundred tensors.
    """
    stream = torch.cuda.current_stream(device)
    if stream in kept.streams:
        return
    for tensor in kept.copy.tensors():
        tensor.record_stream(stream)
    kept.streams.add(stream)


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
