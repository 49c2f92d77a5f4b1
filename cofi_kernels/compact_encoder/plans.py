"""Which launches a sublayer takes for a number of rows, with what tiles: the least of a predicted time.

The prediction is a few numbers of a Hopper GPU and the bytes and flops that a program needs; the README has its sums.
It only ranks: what it predicts was never measured. Every tile named here compiles for sm_80, sm_90 and sm_100 without
spills.

T rows in B sequences, E the padded hidden size, D the padded head dim.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

LAUNCH_US = 1.3  # of one kernel in a replayed graph
START_US = 1.5  # until a program's first tile has come from L2
MULTIPROCESSOR_BYTES_PER_US = 80_000  # that one multiprocessor draws from L2
L2_BYTES_PER_US = 5_500_000  # that all of them draw together
FLOPS_PER_US = 3_000_000  # of one multiprocessor's tensor cores at half their rate
MEMORY_BYTES_PER_US = 4_300_000
ELEMENT = 2  # bytes of bf16 and fp16
_MOST_PARTS = 16


class LinearTile(NamedTuple):
    """A program's part of a product, and how it is launched."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


class FfnTile(NamedTuple):
    """Whole rows, and the intermediate dims looked at together."""

    rows: int
    dims: int
    warps: int
    stages: int


LINEAR_TILES = (
    LinearTile(16, 64, 64, 4, 4),
    LinearTile(32, 64, 64, 4, 4),
    LinearTile(64, 64, 64, 4, 4),
    LinearTile(128, 64, 64, 4, 3),
    LinearTile(128, 128, 64, 8, 3),
)
FFN_TILES = (FfnTile(16, 32, 8, 2), FfnTile(32, 16, 8, 3))
WIDE_FFN_TILES = (FfnTile(16, 16, 8, 2),)  # of more than 768 hidden dims: sums of 32 rows would take 128 registers
ATTENTION_KEYS = 64
ATTENTION_ROWS, ATTENTION_WARPS, ATTENTION_STAGES = 16, 8, 2  # with whole rows of the output: 32 of them spill
CONTEXT_ROWS, CONTEXT_WARPS = 64, 4


class AttentionPlan(NamedTuple):
    """One launch for q, k and v, then "whole": one launch; "part": one and a sum; "context": one, a product, a sum."""

    mode: str
    project: LinearTile
    heads_per_part: int
    out: LinearTile


class FfnPlan(NamedTuple):
    """ "whole": one launch; "part": one for parts of the dims and a sum of them; "linear": two products and a sum."""

    mode: str
    tile: FfnTile
    parts: int
    up: LinearTile
    down: LinearTile


@functools.lru_cache(maxsize=4096)
def plan_attention(n_rows: int, n_sequences: int, n_heads: int, head_dim: int, hidden: int, sm: int) -> AttentionPlan:
    """For T = n_rows in B = n_sequences of like length, on a GPU of `sm` multiprocessors."""
    width = n_heads * head_dim
    _, project = _best_linear(n_rows, 3 * width, hidden, sm)
    out_us, out = _best_linear(n_rows, hidden, width, sm)
    length = -(-n_rows // max(n_sequences, 1))
    head_bytes, head_flops = 2 * length * head_dim * ELEMENT, 4 * length * head_dim
    row_bytes, row_flops = head_dim * hidden * ELEMENT, 2 * head_dim * hidden

    def launch(rows: int, heads: int, own_rows: bool) -> float:
        programs = -(-length // rows) * n_sequences * -(-n_heads // heads)
        n_bytes, flops = head_bytes + row_bytes * own_rows, rows * (head_flops + row_flops * own_rows)
        return _launch_us(programs, heads * n_bytes, heads * flops, sm)

    context = launch(CONTEXT_ROWS, 1, False) + out_us + _sum_us(n_rows, hidden, 1, ELEMENT)
    found = [(context, "context", 1)]
    for heads in range(1, n_heads + 1):
        parts = -(-n_heads // heads)
        added = 0.0 if parts == 1 else _sum_us(n_rows, hidden, parts, 4)
        found.append((launch(ATTENTION_ROWS, heads, True) + added, "whole" if parts == 1 else "part", heads))
    _, mode, heads = min(found)
    return AttentionPlan(mode, project, heads, out)


@functools.lru_cache(maxsize=4096)
def plan_ffn(n_rows: int, n_dims: int, hidden: int, sm: int) -> FfnPlan:
    """For n_dims intermediate dims, a multiple of 64."""
    up_us, up = _best_linear(n_rows, n_dims, hidden, sm)
    down_us, down = _best_linear(n_rows, hidden, n_dims, sm)
    tiles = ffn_tiles(hidden)
    found = [(up_us + down_us + _sum_us(n_rows, hidden, 1, ELEMENT), "linear", 1, tiles[0])]
    for tile in tiles:
        blocks = -(-n_rows // tile.rows)
        for parts in _divisors(n_dims // 64):
            weights = 2 * hidden * (n_dims // parts)
            added = 0.0 if parts == 1 else _sum_us(n_rows, hidden, parts, 4)
            us = _launch_us(blocks * parts, weights * ELEMENT, 2 * tile.rows * weights, sm) + added
            found.append((us, "whole" if parts == 1 else "part", parts, tile))
    _, mode, parts, tile = min(found)
    return FfnPlan(mode, tile, parts, up, down)


def ffn_tiles(hidden: int) -> tuple[FfnTile, ...]:
    return FFN_TILES if hidden <= 768 else WIDE_FFN_TILES


def sum_rows(n_rows: int) -> int:
    """Rows of a program that sums parts: single ones where they are few, as each program reads all parts of its own."""
    return 1 if n_rows <= 1024 else 4


def depth_of(tile: LinearTile, depth: int) -> int:
    """What of a product's depth, a multiple of 16, is looked at together: it must divide it."""
    return next(block for block in (tile.depth, 32, 16) if depth % block == 0)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, _MOST_PARTS + 1) if n % d == 0]


def _best_linear(n_rows: int, n_columns: int, depth: int, sm: int) -> tuple[float, LinearTile]:
    def us(tile: LinearTile) -> float:
        programs = -(-n_rows // tile.rows) * -(-n_columns // tile.columns)
        n_bytes, flops = (tile.rows + tile.columns) * depth * ELEMENT, 2 * tile.rows * tile.columns * depth
        return _launch_us(programs, n_bytes, flops, sm)

    return min((us(tile), tile) for tile in LINEAR_TILES)


def _launch_us(programs: int, n_bytes: int, flops: int, sm: int) -> float:
    """`programs` of so many bytes and flops each, spread over the multiprocessors."""
    rounds = -(-programs // sm)
    rate = min(MULTIPROCESSOR_BYTES_PER_US, L2_BYTES_PER_US / max(1, min(programs, sm)))
    return LAUNCH_US + START_US + rounds * max(n_bytes / rate, flops / FLOPS_PER_US)


def _sum_us(n_rows: int, hidden: int, parts: int, element: int) -> float:
    """Writing the parts and the launch that adds them: it reads them and the residual, and writes the rows."""
    return LAUNCH_US + START_US + n_rows * hidden * (2 * parts * element + 2 * ELEMENT) / MEMORY_BYTES_PER_US
