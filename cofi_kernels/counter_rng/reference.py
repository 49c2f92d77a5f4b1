"""Counter-based uniforms and dropout in plain PyTorch: the definition every backend reproduces bit for bit.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of
    key     = (seed low, seed high)                                    32-bit words
    counter = (index low, index high, offset low, offset high)
gives four words; the first, r, gives u = ((r >> 9) + 1/2) * 2^-23. Twenty-three bits and not twenty-four: then u and
1 - u are both exact in fp32 and strictly inside (0, 1), where 1 - 2^-25 would round to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
UNIFORM_BITS = 23

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(key: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The four output words of Philox4x32-10. All tensors int64 holding 32-bit words, broadcast against each other."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(factor: int, word: Tensor) -> tuple[Tensor, Tensor]:
    product = word * factor  # int64 wraps modulo 2^64, which keeps the bits of the unsigned product
    return (product >> 32) & _WORD, product & _WORD


def first_word(state: Tensor, index: Tensor) -> Tensor:
    """First Philox word of each element.

    state: int64 (2,) [seed, offset]; index: int64, any shape; returns int64 of index's shape, in [0, 2^32)
    """
    seed, offset = state[0], state[1]
    key = (seed & _WORD, (seed >> 32) & _WORD)
    counter = (index & _WORD, (index >> 32) & _WORD, offset & _WORD, (offset >> 32) & _WORD)
    return philox(key, counter)[0]


def uniform_at(state: Tensor, index: Tensor) -> Tensor:
    """Uniforms in (0, 1) of the elements `index` (int64, any shape), fp32 of index's shape."""
    steps = first_word(state, index) >> (32 - UNIFORM_BITS)
    return (steps.float() + 0.5) * 2.0**-UNIFORM_BITS


def counter_uniform(state: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniforms in (0, 1), fp32 of `shape`; the element index is the row-major flat index."""
    return uniform_at(state, torch.arange(math.prod(shape), device=state.device)).view(shape)


def keep_threshold(p: float) -> int:
    """The integer t for which (r >> 9) >= t exactly where u >= p, in [0, 2^23].

    Comparing integers keeps the decision the same on every backend; p itself is not an fp32 number.
    """
    return math.ceil(p * 2**UNIFORM_BITS - 0.5)


def keep_at(state: Tensor, index: Tensor, p: float) -> Tensor:
    """Which of the elements `index` dropout with probability `p` keeps: bool of index's shape."""
    return (first_word(state, index) >> (32 - UNIFORM_BITS)) >= keep_threshold(p)


def counter_dropout(x: Tensor, p: float, state: Tensor) -> Tensor:
    """x / (1 - p) where u >= p, else 0. The result is contiguous. Its gradient is the same map of dy."""
    index = torch.arange(x.numel(), device=x.device).view(x.shape)
    return torch.where(keep_at(state, index, p), x.contiguous() * (1.0 / (1.0 - p)), 0.0)
