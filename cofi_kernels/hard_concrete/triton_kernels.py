"""Hard-concrete gates in Triton: elementwise kernels over all gates of the model, and kernels over their vectors.

V vectors lie in the n gates; offsets (V + 1,) are read on the device and clamped to the gates that exist.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.counter_rng import triton_kernels as counter_rng
from cofi_kernels.hard_concrete import reference

GAMMA = tl.constexpr(reference.GAMMA)
ZETA = tl.constexpr(reference.ZETA)
EPSILON = tl.constexpr(reference.EPSILON)

_BLOCK = 1024  # gates per program, elementwise
_RANK_BLOCK = 32  # gates per program where each is compared with all of its vector: 1,182 programs for BERT-base
_VECTOR_BLOCK = 128  # gates of a vector looked at together; 64 rows of 128 spill registers on sm_90
_OFFSETS_BLOCK = 64  # offsets looked at together


@triton.jit
def _stretched(loga, noise_ptr, first, n, temperature, FROM_STATE: tl.constexpr, BLOCK: tl.constexpr):
    """s of the gates from `first` on, and z before its clamp."""
    if FROM_STATE:
        word = counter_rng.element_words(tl.load(noise_ptr), tl.load(noise_ptr + 1), first, BLOCK)
        u = counter_rng.uniform(word)
    else:
        index = first + tl.arange(0, BLOCK)
        u = tl.load(noise_ptr + index, mask=index < n, other=0.5)
    s = tl.sigmoid((tl.log(u) - tl.log(1.0 - u) + loga) / temperature)
    return s, s * (ZETA - GAMMA) + GAMMA


@triton.jit
def _hard_concrete_fwd_kernel(
    loga_ptr, noise_ptr, z_ptr, n, temperature, FROM_STATE: tl.constexpr, BLOCK: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = first + tl.arange(0, BLOCK)
    mask = index < n
    loga = tl.load(loga_ptr + index, mask=mask, other=0.0)
    _, stretched = _stretched(loga, noise_ptr, first, n, temperature, FROM_STATE, BLOCK)
    z = tl.where(stretched < 0.0, 0.0, tl.where(stretched > 1.0, 1.0, stretched))  # a minimum would lose a NaN
    tl.store(z_ptr + index, z, mask=mask)


@triton.jit
def _hard_concrete_bwd_kernel(
    dz_ptr, loga_ptr, noise_ptr, dloga_ptr, n, temperature, FROM_STATE: tl.constexpr, BLOCK: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = first + tl.arange(0, BLOCK)
    mask = index < n
    dz = tl.load(dz_ptr + index, mask=mask, other=0.0)
    loga = tl.load(loga_ptr + index, mask=mask, other=0.0)
    s, stretched = _stretched(loga, noise_ptr, first, n, temperature, FROM_STATE, BLOCK)
    inside = (stretched > 0.0) & (stretched < 1.0)
    dloga = dz * s * (1.0 - s) * ((ZETA - GAMMA) / temperature)
    tl.store(dloga_ptr + index, tl.where(inside, dloga, 0.0), mask=mask)


@triton.jit
def _keep(loga, zero_point):
    p = tl.sigmoid(loga - zero_point)
    return tl.where(p < EPSILON, EPSILON, tl.where(p > 1.0 - EPSILON, 1.0 - EPSILON, p))


@triton.jit
def _keep_probability_fwd_kernel(loga_ptr, p_ptr, n, zero_point, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < n
    loga = tl.load(loga_ptr + index, mask=mask, other=0.0)
    tl.store(p_ptr + index, _keep(loga, zero_point), mask=mask)


@triton.jit
def _keep_probability_bwd_kernel(dp_ptr, loga_ptr, dloga_ptr, n, zero_point, BLOCK: tl.constexpr):
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = index < n
    dp = tl.load(dp_ptr + index, mask=mask, other=0.0)
    distance = tl.load(loga_ptr + index, mask=mask, other=0.0) - zero_point
    p, q = tl.sigmoid(distance), tl.sigmoid(-distance)  # 1 - p would lose its digits near p = 1
    inside = (p >= EPSILON) & (p <= 1.0 - EPSILON)
    tl.store(dloga_ptr + index, tl.where(inside, dp * p * q, 0.0), mask=mask)


@triton.jit
def _bounds(offsets_ptr, vector, n):
    """First gate of a vector and the one after its last."""
    start = tl.minimum(tl.maximum(tl.load(offsets_ptr + vector), 0), n)
    end = tl.minimum(tl.maximum(tl.load(offsets_ptr + vector + 1), start), n)
    return start, end


@triton.jit
def _round_half_even(x):
    """x + 3 * 2^51 has no bits after the point left: exact for |x| < 2^51."""
    big = 6755399441055744.0
    return (x + big) - big


@triton.jit
def _num_zeros_kernel(loga_ptr, offsets_ptr, num_zeros_ptr, n, zero_point, BLOCK: tl.constexpr):
    """One program a vector: its expected number of zeros, rounded, as fp64 (NaN where a gate is)."""
    vector = tl.program_id(0)
    start, end = _bounds(offsets_ptr, vector, n)
    total = tl.zeros((BLOCK,), tl.float64)
    for first in range(start, end, BLOCK):
        index = first + tl.arange(0, BLOCK)
        mask = index < end
        p = _keep(tl.load(loga_ptr + index, mask=mask, other=0.0), zero_point)
        total += tl.where(mask, p, 0.0).to(tl.float64)
    expected = (end - start).to(tl.float64) - tl.sum(total)
    tl.store(num_zeros_ptr + vector, _round_half_even(expected))


@triton.jit
def _vector_of(index, offsets_ptr, n_vectors, BLOCK: tl.constexpr):
    """Which vector each gate belongs to: how many vectors end at or before it."""
    vector = tl.zeros_like(index)
    for first in range(0, n_vectors, BLOCK):
        v = first + tl.arange(0, BLOCK)
        ends = tl.load(offsets_ptr + 1 + v, mask=v < n_vectors, other=2147483647)
        vector += tl.sum((ends[None, :] <= index[:, None]).to(tl.int32), 1)
    return vector


@triton.jit
def _deterministic_masks_kernel(
    loga_ptr,
    offsets_ptr,
    num_zeros_ptr,
    z_ptr,
    n,
    n_vectors,
    scale,
    BLOCK: tl.constexpr,
    VECTOR_BLOCK: tl.constexpr,
    OFFSETS_BLOCK: tl.constexpr,
):
    """Each gate counts the gates of its vector that come before it by (loga, index), and is zero where they are few."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    vector = _vector_of(index, offsets_ptr, n_vectors, OFFSETS_BLOCK)
    mask = (index < n) & (vector < n_vectors)
    loga = tl.load(loga_ptr + index, mask=index < n, other=0.0)
    start = tl.load(offsets_ptr + vector, mask=mask, other=n)
    end = tl.load(offsets_ptr + vector + 1, mask=mask, other=0)
    num_zeros = tl.load(num_zeros_ptr + vector, mask=mask, other=0.0)
    before = tl.zeros((BLOCK,), tl.int32)
    for first in range(tl.maximum(tl.min(start), 0), tl.minimum(tl.max(end), n), VECTOR_BLOCK):
        other = first + tl.arange(0, VECTOR_BLOCK)
        other_loga = tl.load(loga_ptr + other, mask=other < n, other=0.0)[None, :]
        other = other[None, :]
        lower = (other_loga < loga[:, None]) | ((other_loga == loga[:, None]) & (other < index[:, None]))
        same_vector = (other >= start[:, None]) & (other < end[:, None])
        before += tl.sum((lower & same_vector).to(tl.int32), 1)
    z = tl.where(before.to(tl.float64) < num_zeros, 0.0, tl.sigmoid(loga * scale))
    tl.store(z_ptr + index, z, mask=index < n)


@triton.jit
def _live_indices_kernel(z_ptr, offsets_ptr, indices_ptr, counts_ptr, n, BLOCK: tl.constexpr):
    """One program a vector: positions of the live gates at the front of its range, then -1."""
    vector = tl.program_id(0)
    start, end = _bounds(offsets_ptr, vector, n)
    count = tl.zeros((), tl.int32)
    for first in range(start, end, BLOCK):
        index = first + tl.arange(0, BLOCK)
        live = (tl.load(z_ptr + index, mask=index < end, other=0.0) != 0.0).to(tl.int32)
        place = start + count + tl.cumsum(live, 0) - 1
        tl.store(indices_ptr + place, index - start, mask=live != 0)
        count += tl.sum(live)
    for first in range(start + count, end, BLOCK):
        index = first + tl.arange(0, BLOCK)
        tl.store(indices_ptr + index, tl.full((BLOCK,), -1, tl.int32), mask=index < end)
    tl.store(counts_ptr + vector, count)


def hard_concrete(loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    loga, noise = loga.contiguous(), noise.contiguous()
    z = torch.empty_like(loga)
    if z.numel() > 0:
        grid, from_state = (triton.cdiv(z.numel(), _BLOCK),), noise.dtype == torch.int64
        with torch.cuda.device_of(z):
            _hard_concrete_fwd_kernel[grid](loga, noise, z, z.numel(), temperature, from_state, _BLOCK)
    return z


def hard_concrete_backward(dz: Tensor, loga: Tensor, noise: Tensor, temperature: float) -> Tensor:
    dz, loga, noise = dz.contiguous(), loga.contiguous(), noise.contiguous()
    dloga = torch.empty_like(loga)
    if dz.numel() > 0:
        grid, from_state = (triton.cdiv(dz.numel(), _BLOCK),), noise.dtype == torch.int64
        with torch.cuda.device_of(dz):
            _hard_concrete_bwd_kernel[grid](dz, loga, noise, dloga, dz.numel(), temperature, from_state, _BLOCK)
    return dloga


def keep_probability(loga: Tensor, temperature: float) -> Tensor:
    loga = loga.contiguous()
    p = torch.empty_like(loga)
    if p.numel() > 0:
        with torch.cuda.device_of(p):
            _keep_probability_fwd_kernel[(triton.cdiv(p.numel(), _BLOCK),)](
                loga, p, p.numel(), reference.zero_point(temperature), _BLOCK
            )
    return p


def keep_probability_backward(dp: Tensor, loga: Tensor, temperature: float) -> Tensor:
    dp, loga = dp.contiguous(), loga.contiguous()
    dloga = torch.empty_like(loga)
    if dp.numel() > 0:
        with torch.cuda.device_of(dp):
            _keep_probability_bwd_kernel[(triton.cdiv(dp.numel(), _BLOCK),)](
                dp, loga, dloga, dp.numel(), reference.zero_point(temperature), _BLOCK
            )
    return dloga


def deterministic_masks(loga: Tensor, offsets: Tensor, temperature: float, magic_scale: float) -> Tensor:
    loga, offsets = loga.contiguous(), offsets.contiguous()
    z, n, n_vectors = torch.empty_like(loga), loga.numel(), offsets.numel() - 1
    if n == 0:
        return z
    num_zeros = torch.empty(n_vectors, dtype=torch.float64, device=loga.device)
    with torch.cuda.device_of(loga):
        if n_vectors > 0:
            zero_point = reference.zero_point(temperature)
            _num_zeros_kernel[(n_vectors,)](loga, offsets, num_zeros, n, zero_point, _BLOCK)
        _deterministic_masks_kernel[(triton.cdiv(n, _RANK_BLOCK),)](
            loga,
            offsets,
            num_zeros,
            z,
            n,
            n_vectors,
            magic_scale / temperature,
            _RANK_BLOCK,
            _VECTOR_BLOCK,
            _OFFSETS_BLOCK,
        )
    return z


def live_indices(z: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    z, offsets = z.contiguous(), offsets.contiguous()
    indices = torch.empty_like(z, dtype=torch.int32)
    counts = offsets.new_empty(offsets.numel() - 1)
    if counts.numel() > 0:
        with torch.cuda.device_of(z):
            _live_indices_kernel[(counts.numel(),)](z, offsets, indices, counts, z.numel(), _BLOCK)
    return indices, counts
