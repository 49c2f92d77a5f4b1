"""Counter-based uniforms and dropout in Triton. The state is read on the device.

`element_words`, `keep_rows`, `uniform_steps` and `uniform` are for the kernels of other families as well.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng import reference

UNIFORM_SHIFT = tl.constexpr(32 - reference.UNIFORM_BITS)
BLOCK_WORDS = tl.constexpr(reference.BLOCK_WORDS)
UNIFORM_STEP = tl.constexpr(2.0**-reference.UNIFORM_BITS)

_BLOCK = 1024  # elements per program


@triton.jit
def element_words(seed, offset, first, N: tl.constexpr):
    """The words of the elements first, ..., first + N - 1, uint32 (N,).

    seed, offset, first: int64 scalars; first and N are multiples of 4, the elements of a Philox block
    """
    w0, w1, w2, w3 = _block_words(seed, offset, first // BLOCK_WORDS + tl.arange(0, N // BLOCK_WORDS))
    return tl.interleave(tl.interleave(w0, w2), tl.interleave(w1, w3))


@triton.jit
def _block_words(seed, offset, block):
    """The four words of each Philox block, of block's shape. seed, offset: int64 scalars; block: int64, any shape."""
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = offset.to(tl.uint32), (offset >> 32).to(tl.uint32)
    return tl.philox(seed, c0, c1, c2, c3)


@triton.jit
def keep_rows(state_ptr, first, threshold, N: tl.constexpr, ALIGNED: tl.constexpr):
    """Which elements dropout keeps, of rows of N elements that start at the elements `first` (int64 (M,)): int1 (M, N).

    threshold: `reference.keep_threshold(p)`
    ALIGNED:   every row starts at a multiple of 4, a Philox block; without, each element makes a block of its own
    """
    seed, offset = tl.load(state_ptr), tl.load(state_ptr + 1)
    if ALIGNED:
        block = first[:, None] // BLOCK_WORDS + tl.arange(0, N // BLOCK_WORDS)[None, :]
        w0, w1, w2, w3 = _block_words(seed, offset, block)
        # decided before the words are put in order: where that goes through shared memory, a byte goes instead of four
        k0, k1 = uniform_steps(w0) >= threshold, uniform_steps(w1) >= threshold
        k2, k3 = uniform_steps(w2) >= threshold, uniform_steps(w3) >= threshold
        return tl.interleave(tl.interleave(k0, k2), tl.interleave(k1, k3))
    index = first[:, None] + tl.arange(0, N)[None, :]
    w0, w1, w2, w3 = _block_words(seed, offset, index // BLOCK_WORDS)
    place = index % BLOCK_WORDS
    word = tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))
    return uniform_steps(word) >= threshold


@triton.jit
def uniform_steps(word):
    """The uniform as an integer number of steps: dropout keeps where it is at least `reference.keep_threshold(p)`."""
    return (word >> UNIFORM_SHIFT).to(tl.int32)


@triton.jit
def uniform(word):
    return (uniform_steps(word).to(tl.float32) + 0.5) * UNIFORM_STEP


@triton.jit
def _counter_uniform_kernel(state_ptr, u_ptr, n, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = first + tl.arange(0, BLOCK)
    word = element_words(tl.load(state_ptr), tl.load(state_ptr + 1), first, BLOCK)
    tl.store(u_ptr + index, uniform(word), mask=index < n)


@triton.jit(do_not_specialize=["threshold", "scale_bits"])
def _counter_dropout_kernel(x_ptr, y_ptr, state_ptr, n, threshold, scale_bits, BLOCK: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = first + tl.arange(0, BLOCK)
    mask = index < n
    x = tl.load(x_ptr + index, mask=mask, other=0.0)
    wide = tl.float64 if x.dtype == tl.float64 else tl.float32
    scale = scale_bits.to(tl.float64, bitcast=True).to(wide)
    word = element_words(tl.load(state_ptr), tl.load(state_ptr + 1), first, BLOCK)
    y = tl.where(uniform_steps(word) >= threshold, x.to(wide) * scale, 0.0)
    tl.store(y_ptr + index, y.to(x.dtype), mask=mask)


def counter_uniform(state: Tensor, shape: Sequence[int]) -> Tensor:
    state = state.contiguous()
    u = torch.empty(shape, dtype=torch.float32, device=state.device)
    if u.numel() > 0:
        with torch.cuda.device_of(u):
            _counter_uniform_kernel[(triton.cdiv(u.numel(), _BLOCK),)](state, u, u.numel(), _BLOCK)
    return u


def counter_dropout(x: Tensor, p: float, state: Tensor) -> Tensor:
    x, state = x.contiguous(), state.contiguous()
    y = torch.empty_like(x)
    if x.numel() > 0:
        grid = (triton.cdiv(x.numel(), _BLOCK),)
        with torch.cuda.device_of(x):
            _counter_dropout_kernel[grid](
                x, y, state, x.numel(), reference.keep_threshold(p), bits_of(1.0 / (1.0 - p)), _BLOCK
            )
    return y


def bits_of(scale: float) -> int:
    """The bit pattern of a double: Triton would round a float argument to fp32, which fp64 tensors would notice."""
    return struct.unpack("<q", struct.pack("<d", scale))[0]
