"""Whether a module is still what it was: the same tensors, where they were, not written to since."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from torch import Tensor, nn

from cofi_kernels.compact_encoder.packed import state_of


class Watch:
    """What a module was made of when this was made.

    The tree of modules is walked once; a look costs 20 us for a pruned BERT where `parameters()` alone takes 60.
    """

    def __init__(self, module: nn.Module) -> None:
        modules = list(module.modules())
        self._children = [m._modules for m in modules]
        self._tensors = [held for m in modules for held in (m._parameters, m._buffers)]
        self._state = self._look()

    def has_changed(self) -> bool:
        """Whether a submodule or tensor was replaced or moved, or PyTorch counted a write to one."""
        return self._look() != self._state

    def _look(self) -> tuple[list[nn.Module | None], tuple[Sequence[int], ...]]:
        children = list(chain.from_iterable(held.values() for held in self._children))
        tensors: list[Tensor] = [t for held in self._tensors for t in held.values() if t is not None]
        return children, state_of(tensors)
