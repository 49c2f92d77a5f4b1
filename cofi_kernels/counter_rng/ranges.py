"""Dropout decisions for a range of element indices, for CPU backends that need part of a counter's elements only."""

from __future__ import annotations

from torch import Tensor

from cofi_kernels.counter_rng import cpu, reference
from cofi_kernels.native import load_native


def keep_range(state: Tensor, first: int, n: int, p: float) -> Tensor:
    """Which of the n elements from index `first` on dropout with probability `p` keeps: bool (n,), on the CPU.

    The compiled kernel where there is one: the reference takes over ten times as long for the same bits.
    """
    if load_native() is None:
        return reference.keep_of_range(state, first, n, p)
    # a uniform is (step + 1/2) * 2^-23 and so is kept where it passes threshold * 2^-23, both exact in fp32
    return cpu.uniform_range(state, first, n) >= reference.keep_threshold(p) * 2.0**-reference.UNIFORM_BITS
