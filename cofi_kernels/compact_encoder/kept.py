"""Copies of an encoder's weights in another layout, on their device: made once, filled anew when a weight changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from cofi_kernels.compact_encoder.layout import EncoderLayout
from cofi_kernels.compact_encoder.packed import anchor_of, state_of


class Witness:
    """What the weights were when a copy of them was made: where they are, how often written to, and their norms."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._state, self._norms = state_of(weights), norms(weights)

    def agrees(self, weights: Sequence[Tensor]) -> bool:
        """Whether they are that still; not every write is counted by PyTorch.

        It reads them all and waits for the answer, which cannot be done while a graph is captured.
        """
        if self._state != state_of(weights):
            return False
        return is_capturing(self._norms) or torch.equal(self._norms, norms(weights))


class Copy(Protocol):
    """An encoder with a copy of its weights."""

    def still_holds(self, weights: Sequence[Tensor]) -> bool: ...

    def fill(self, weights: Sequence[Tensor]) -> None: ...


C = TypeVar("C", bound=Copy)


class KeptCopies(Generic[C]):
    """The copies that `make` has made. They stay where they are as long as the first weight lives: graphs read them."""

    def __init__(self, make: Callable[[Sequence[Tensor], EncoderLayout, int], C]) -> None:
        self._make = make
        self._known: Any = WeakIdKeyDictionary()  # first weight -> {what a copy was made for: the copy}

    def find(self, x: Tensor, weights: Sequence[Tensor], layout: EncoderLayout) -> C:
        anchor = anchor_of(weights)
        key = (layout, x.shape[1], x.dtype, x.device)
        known: C | None = None if anchor is None else self._known.get(anchor, {}).get(key)
        if known is None:
            known = self._make(weights, layout, x.shape[1])
            if anchor is not None and not is_capturing(x):  # memory of a graph holds the copy only after its replay
                self._known.setdefault(anchor, {})[key] = known
        elif not known.still_holds(weights):
            known.fill(weights)
        return known


def norms(weights: Sequence[Tensor]) -> Tensor:
    """Of every weight the Euclidean norm, fp32: a few launches for all."""
    kept = [w.detach() for w in weights if w.numel()]
    return torch.stack(list(torch._foreach_norm(kept, 2, dtype=torch.float32))) if kept else torch.zeros(0)


def is_capturing(t: Tensor) -> bool:
    return t.is_cuda and torch.cuda.is_current_stream_capturing()
