"""How a product is cut into work for a fixed number of programs, when one of its sizes is known on the device alone.

A product of n tiles on P programs leaves some of them idle in its last round, and nearly all when few units live. So
the tiles of the last round are cut along the inner dimension into parts; the program that comes last with a part of a
tile adds the parts in their order, so that the sum is the same in every run.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from cofi_kernels.grids import multiprocessors
from cofi_kernels.unit_products.padding import PAD, TILE_COUNTERS, n_integers

MAX_PARTS = 8
_PARTS_PER_PROGRAM = 2  # slots for parts, in tiles for each program
_PART_COST = tl.constexpr(2)  # writing a part, and reading it again, each take about as long as 2 steps of BLOCK_K
_PAD = tl.constexpr(PAD)
_MAX_PARTS = tl.constexpr(MAX_PARTS)
_SLOTS_PER_PROGRAM = tl.constexpr(_PARTS_PER_PROGRAM)


class Tiles(NamedTuple):
    """Static shape of a product's kernel."""

    m: int
    n: int
    k: int
    num_warps: int
    num_stages: int
    programs: int  # for each multiprocessor
    registers: int | None = None  # of a thread at most; None for what the compiler thinks best

    def constants(self) -> dict[str, int | None]:
        """As keyword arguments of a kernel's launch."""
        return {
            "BLOCK_M": self.m,
            "BLOCK_N": self.n,
            "BLOCK_K": self.k,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "maxnreg": self.registers,
        }


# One program of 128 KiB to a multiprocessor of sm_90 and sm_100 (227 KiB), of 48 KiB to one of sm_80 (163 KiB): the
# kernels take 160 to 255 registers a thread, and two programs of 8 warps have room for 128.
_HALF = Tiles(128, 128, 64, num_warps=8, num_stages=4, programs=1)
_HALF_SM80 = Tiles(128, 128, 32, num_warps=8, num_stages=4, programs=1)
# fp32 is multiplied outside the tensor cores; left alone, ptxas kept to 80 registers on sm_80 and spilled 8 bytes.
_SINGLE = Tiles(64, 64, 16, num_warps=8, num_stages=3, programs=1, registers=128)
_INTERPRETED = Tiles(32, 32, 16, num_warps=1, num_stages=1, programs=2)


def tiles_for(x: Tensor) -> Tiles:
    """The shape for activations like `x`."""
    if x.device.type != "cuda":
        return _INTERPRETED
    if x.dtype == torch.float32:
        return _SINGLE
    return _HALF if torch.cuda.get_device_capability(x.device) >= (9, 0) else _HALF_SM80


def precision_of(x: Tensor) -> str:
    """How tl.dot multiplies: fp32 without tf32, whose error is 1e-3."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


class Work(NamedTuple):
    """What the launches of one sublayer share; a counter is 0 again after each."""

    tiles: Tiles
    programs: int
    parts: Tensor  # fp32, slots of a tile each
    counters: Tensor  # int32 (TILE_COUNTERS,), zero before the first launch
    n_live: Tensor  # int32 (1,), live units
    live: Tensor  # int32 (units,), their indices, ascending


def new_work(x: Tensor, n_units: int, integers: Tensor | None = None) -> Work:
    """Buffers for activations like `x`; `folding` fills counters, n_live and live.

    integers: int32, n_integers(n_units) or more, that they are taken from: a backward that is given those of its
    forward, which are as they were left, needs no list made again
    """
    tiles = tiles_for(x)
    programs = tiles.programs * multiprocessors(x.device)
    if programs > TILE_COUNTERS:
        raise ValueError(f"multiprocessors must be at most {TILE_COUNTERS // tiles.programs}, got {programs}")
    if integers is None:
        integers = torch.empty(n_integers(n_units), dtype=torch.int32, device=x.device)
    counters, n_live, live = integers[:TILE_COUNTERS], integers[TILE_COUNTERS:][:1], integers[TILE_COUNTERS + PAD :]
    parts = torch.empty(_PARTS_PER_PROGRAM * programs * tiles.m * tiles.n, dtype=torch.float32, device=x.device)
    return Work(tiles, programs, parts, counters, n_live, live[:n_units])


@triton.jit
def padded_extent(extent):
    return (extent + _PAD - 1) // _PAD * _PAD


@triton.jit
def split_last_round(n_tiles, k_steps):
    """How many tiles are computed whole, and into how many parts each of the others is cut."""
    n_programs = tl.num_programs(0)
    rest = n_tiles % n_programs
    parts = 1
    least = k_steps
    for candidate in tl.static_range(2, _MAX_PARTS + 1):
        cost = tl.cdiv(rest * candidate, n_programs) * tl.cdiv(k_steps, candidate) + (candidate + 1) * _PART_COST
        better = (cost < least) & (rest * candidate <= n_programs * _SLOTS_PER_PROGRAM)
        parts = tl.where(better, candidate, parts)
        least = tl.where(better, cost, least)
    return n_tiles - rest, parts


@triton.jit
def piece_of(piece, whole, parts, k_steps, BLOCK_K: tl.constexpr):
    """A piece of work: its tile, which part of it, of how many, its place among cut tiles, and its range of k."""
    after = piece - whole
    cut = after >= 0
    n_parts = tl.where(cut, parts, 1)
    part = tl.where(cut, after % parts, 0)
    cut_tile = tl.where(cut, after // parts, 0)
    tile = tl.where(cut, whole + cut_tile, piece)
    steps = tl.cdiv(k_steps, n_parts)
    k_from = part * steps * BLOCK_K
    k_to = tl.minimum((part + 1) * steps, k_steps) * BLOCK_K
    return tile, part, n_parts, cut_tile, k_from, k_to


@triton.jit
def accumulate(
    a_ptr,
    b_ptr,
    first_m,
    first_n,
    k_from,
    k_to,
    n_m,
    n_n,
    n_k,
    A_M: tl.constexpr,
    A_K,
    B_K: tl.constexpr,
    B_N: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """fp32 (BLOCK_M, BLOCK_N): sum over k in [k_from, k_to) of A[m, k] B[k, n], A and B (n_m, n_k) and (n_k, n_n).

    A_M, A_K, B_K, B_N are strides. What lies outside is zero. k_from is a multiple of BLOCK_K.
    """
    m, n, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    a = a_ptr + first_m.to(tl.int64) * A_M + k_from.to(tl.int64) * A_K + (m[:, None] * A_M + k[None, :] * A_K)
    b = b_ptr + first_n.to(tl.int64) * B_N + k_from.to(tl.int64) * B_K + (k[:, None] * B_K + n[None, :] * B_N)
    in_m, in_n = (first_m + m < n_m)[:, None], (first_n + n < n_n)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first_k in range(k_from, k_to, BLOCK_K):
        in_k = first_k + k < n_k
        a_tile = tl.load(a, mask=in_m & in_k[None, :], other=0.0)
        b_tile = tl.load(b, mask=in_k[:, None] & in_n, other=0.0)
        total = tl.dot(a_tile, b_tile, total, input_precision=PRECISION)
        a += BLOCK_K * A_K
        b += BLOCK_K * B_K
    return total


@triton.jit
def halves(total, BLOCK_M: tl.constexpr, HALF: tl.constexpr):
    """The left and right half of a tile's columns: what follows a product takes half the registers for each in turn."""
    return tl.split(tl.permute(tl.reshape(total, (BLOCK_M, 2, HALF)), (0, 2, 1)))


@triton.jit
def _slot(parts_ptr, cut_tile, part, n_parts, half: tl.constexpr, BLOCK_M: tl.constexpr, HALF: tl.constexpr):
    """Where half a tile of a part lies."""
    cell = tl.arange(0, BLOCK_M)[:, None] * HALF + tl.arange(0, HALF)[None, :]
    place = (cut_tile * n_parts + part) * 2 + half
    return parts_ptr + place.to(tl.int64) * (BLOCK_M * HALF) + cell


@triton.jit
def announce(left, right, parts_ptr, counters_ptr, cut_tile, part, n_parts, BLOCK_M: tl.constexpr, HALF: tl.constexpr):
    """True in the program that goes on with a tile: the only one, or the one that came last with a part of it.

    The barrier and the release order every thread's store of its part before the count that announces it; the acquire
    orders the loads in `combine` after the count that says all are there.
    """
    last = n_parts == 1
    if n_parts > 1:
        tl.store(_slot(parts_ptr, cut_tile, part, n_parts, 0, BLOCK_M, HALF), left)
        tl.store(_slot(parts_ptr, cut_tile, part, n_parts, 1, BLOCK_M, HALF), right)
        tl.debug_barrier()
        last = tl.atomic_add(counters_ptr + cut_tile, 1, sem="acq_rel", scope="gpu") == n_parts - 1
        if last:
            tl.store(counters_ptr + cut_tile, 0)
    return last


@triton.jit
def combine(total, parts_ptr, cut_tile, n_parts, half: tl.constexpr, BLOCK_M: tl.constexpr, HALF: tl.constexpr):
    """Half a tile: its own sum where it was not cut, otherwise that of its parts, from the cache that all share."""
    if n_parts > 1:
        total = tl.zeros((BLOCK_M, HALF), tl.float32)
        for part in range(n_parts):
            total += tl.load(_slot(parts_ptr, cut_tile, part, n_parts, half, BLOCK_M, HALF), cache_modifier=".cg")
    return total


@triton.jit
def store_tile(
    ptr, tile, first_m, first_n, n_m, n_n, STRIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Write a tile of a matrix (n_m, n_n) of this row stride, cast, without what is outside."""
    m, n = first_m + tl.arange(0, BLOCK_M), first_n + tl.arange(0, BLOCK_N)
    to = ptr + m[:, None].to(tl.int64) * STRIDE + n[None, :]
    tl.store(to, tile.to(ptr.dtype.element_ty), mask=(m < n_m)[:, None] & (n < n_n)[None, :])
