"""Counter-based uniforms and dropout in plain PyTorch: the definition every backend reproduces bit for bit.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of
    key     = (seed low, seed high)                                    32-bit words
    counter = (block low, block high, offset low, offset high)
gives a block of four words, one for each of the elements 4 block, ..., 4 block + 3. The word r of an element gives
u = ((r >> 9) + 1/2) * 2^-23. Twenty-three bits and not twenty-four: then u and 1 - u are both exact in fp32 and
strictly inside (0, 1), where 1 - 2^-25 would round to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

ROUNDS = 10
BLOCK_WORDS = 4  # elements of one Philox block
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


def block_words(state: Tensor, block: Tensor) -> Tensor:
    """The words of whole blocks.

    state: int64 (2,) [seed, offset]; block: int64, any shape
    returns int64 of block's shape and one more dimension of BLOCK_WORDS, in [0, 2^32)
    """
    seed, offset = state[0], state[1]
    key = (seed & _WORD, (seed >> 32) & _WORD)
    counter = (block & _WORD, (block >> 32) & _WORD, offset & _WORD, (offset >> 32) & _WORD)
    return torch.stack(philox(key, counter), -1)


def words_at(state: Tensor, index: Tensor) -> Tensor:
    """The words of the elements `index` (int64, any shape): int64 of index's shape. Makes a block for each of them."""
    words = block_words(state, index // BLOCK_WORDS)
    return words.gather(-1, (index % BLOCK_WORDS).unsqueeze(-1)).squeeze(-1)


def words_of_range(state: Tensor, first: int, n: int) -> Tensor:
    """The words of the n elements from index `first` on: int64 (n,). Makes each block once."""
    start, end = first // BLOCK_WORDS, (first + n + BLOCK_WORDS - 1) // BLOCK_WORDS
    words = block_words(state, torch.arange(start, end, device=state.device)).flatten()
    return words.narrow(0, first - start * BLOCK_WORDS, n)


def uniform_steps(words: Tensor) -> Tensor:
    """The uniforms of words as integers, in [0, 2^UNIFORM_BITS): u is (steps + 1/2) * 2^-UNIFORM_BITS."""
    return words >> (32 - UNIFORM_BITS)


def uniform(words: Tensor) -> Tensor:
    """The uniforms of words, fp32, in (0, 1)."""
    return (uniform_steps(words).float() + 0.5) * 2.0**-UNIFORM_BITS


def uniform_at(state: Tensor, index: Tensor) -> Tensor:
    """Uniforms in (0, 1) of the elements `index` (int64, any shape), fp32 of index's shape."""
    return uniform(words_at(state, index))


def counter_uniform(state: Tensor, shape: Sequence[int]) -> Tensor:
    """Uniforms in (0, 1), fp32 of `shape`; the element index is the row-major flat index."""
    return uniform(words_of_range(state, 0, math.prod(shape))).view(shape)


def keep_threshold(p: float) -> int:
    """The integer t for which (r >> 9) >= t exactly where u >= p, in [0, 2^23].

    Comparing integers keeps the decision the same on every backend; p itself is not an fp32 number.
    """
    return math.ceil(p * 2**UNIFORM_BITS - 0.5)


def keep_at(state: Tensor, index: Tensor, p: float) -> Tensor:
    """Which of the elements `index` dropout with probability `p` keeps: bool of index's shape."""
    return uniform_steps(words_at(state, index)) >= keep_threshold(p)


def keep_of_range(state: Tensor, first: int, n: int, p: float) -> Tensor:
    """Which of the n elements from index `first` on dropout with probability `p` keeps: bool (n,)."""
    return uniform_steps(words_of_range(state, first, n)) >= keep_threshold(p)


def counter_dropout(x: Tensor, p: float, state: Tensor) -> Tensor:
    """x / (1 - p) where u >= p, else 0. The result is contiguous. Its gradient is the same map of dy."""
    kept = keep_of_range(state, 0, x.numel(), p).view(x.shape)
    return torch.where(kept, x.contiguous() * (1.0 / (1.0 - p)), 0.0)
