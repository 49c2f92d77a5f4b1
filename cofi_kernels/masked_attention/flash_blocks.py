"""What the attention kernels share: work made from cu_seqlens on the device, tiles of packed rows, and launch sizes.

Sequence b is cut into blocks of BLOCK rows and owns the slots from cu_seqlens[b] // BLOCK + b on: they are enough for
its blocks, the next sequence's come after them, and there are T // BLOCK + B of them, a number the host knows. So the
grid does not depend on what cu_seqlens holds; a slot that is to spare costs one look at it.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_threshold

LOG2_E = 1.4426950408889634
SEQUENCE_BLOCK = tl.constexpr(128)  # entries of cu_seqlens looked at together


@triton.jit
def block_of_slot(cu_seqlens_ptr, slot, n_sequences, n_tokens, BLOCK: tl.constexpr):
    """First token and length of the slot's sequence, and the row in it where the block starts.

    A slot to spare has a length of 0. What cu_seqlens holds is clamped to the tokens there are.
    """
    n_before = 0
    for first in range(0, n_sequences, SEQUENCE_BLOCK):
        b = first + tl.arange(0, SEQUENCE_BLOCK)
        bound = tl.load(cu_seqlens_ptr + b, mask=b < n_sequences, other=0)
        n_before += tl.sum(((bound // BLOCK + b <= slot) & (b < n_sequences)).to(tl.int32))
    b = tl.maximum(n_before - 1, 0)
    bound = tl.load(cu_seqlens_ptr + b)
    start = tl.minimum(tl.maximum(bound, 0), n_tokens)
    end = tl.minimum(tl.maximum(tl.load(cu_seqlens_ptr + b + 1), start), n_tokens)
    row = (slot - (bound // BLOCK + b)) * BLOCK
    inside = (row >= 0) & (start + row < end)
    return start, tl.where(inside, end - start, 0), tl.where(inside, row, 0)


@triton.jit
def load_rows(ptr, row, length, stride, D: tl.constexpr):
    """Rows `row` (N,) of a sequence whose first one `ptr` points to: (N, D), zeros from `length` on."""
    return tl.load(ptr + row[:, None] * stride + tl.arange(0, D)[None, :], mask=(row < length)[:, None], other=0.0)


@triton.jit
def store_rows(ptr, row, length, stride, value, D: tl.constexpr):
    place = ptr + row[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(place, value.to(ptr.dtype.element_ty), mask=(row < length)[:, None])


@triton.jit
def first_elements(head, token, n_tokens, max_seqlen):
    """Index of the counter's element (head, token, 0), int64 of token's shape."""
    return (head.to(tl.int64) * n_tokens + token) * max_seqlen


@triton.jit
def product(a, b, acc):
    """acc + a b in fp32. fp32 inputs are split in three tf32 products, which keeps their digits."""
    return tl.dot(a, b, acc, input_precision="tf32x3")


class Dropout(NamedTuple):
    """Dropout as the kernels take it."""

    state: Tensor | None  # None: nothing is dropped
    threshold: int
    scale: float  # of what is kept
    aligned: bool  # every row of probabilities starts at a Philox block


def dropout_of(p: float, state: Tensor | None, max_seqlen: int) -> Dropout:
    if p == 0.0 or state is None:
        return Dropout(None, 0, 1.0, True)
    return Dropout(state.contiguous(), keep_threshold(p), 1.0 / (1.0 - p), max_seqlen % 4 == 0)


class Sizes(NamedTuple):
    """T tokens in B sequences of at most S, H heads of D dims."""

    n_tokens: int
    n_sequences: int
    max_seqlen: int
    n_heads: int
    head_dim: int

    def slots(self, block: int) -> int:
        return self.n_tokens // block + self.n_sequences
