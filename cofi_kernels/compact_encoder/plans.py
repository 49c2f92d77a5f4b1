"""Which launches a sublayer takes for a number of rows, with what tiles: the least of a predicted time.

`costs.py` has the numbers, the README its sums. It only ranks: what it predicts was never measured. Every tile named
here compiles for sm_80, sm_90 and sm_100 without spills at the sizes of BERT (E = 768 and 1,024, D = 64; E = 512) and
MiniLM (E = 384, D = 32).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from cofi_kernels.compact_encoder import costs
from cofi_kernels.compact_encoder.costs import FfnTile, Gpu, Launch, LinearTile, Rows

_MOST_PARTS = 16

LINEAR_TILES = (
    LinearTile(16, 32, 128, 4, 4),
    LinearTile(16, 64, 64, 4, 4),
    LinearTile(32, 64, 64, 4, 4),
    LinearTile(64, 64, 64, 4, 4),
    LinearTile(64, 128, 64, 4, 4),
    LinearTile(128, 64, 64, 4, 3),
    LinearTile(128, 128, 64, 8, 3),
)
FFN_TILES = (FfnTile(16, 32, 8, 2), FfnTile(32, 16, 8, 3))
WIDE_FFN_TILES = (FfnTile(16, 16, 8, 2),)  # of more than 768 hidden dims: sums of 32 rows would take 128 registers
ATTENTION_KEYS = 64
ATTENTION_ROWS, ATTENTION_WARPS = 16, 8  # with whole rows of the output: 32 of them spill
CONTEXT_ROWS, CONTEXT_WARPS = 64, 4
PAD_ROWS = 8
# Modes and padded rows of attention that spill with 2 stages, 8 to 72 bytes on one architecture or another: the
# assembler aims at 128 registers there. With 3 it does not; others spill with 3.
_THREE_STAGES = {("part", 64), ("part", 768), ("whole", 384), ("whole", 512), ("whole", 640)}


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


class AttentionSize(NamedTuple):
    """Heads, and the padded sizes of a head and of a row."""

    n_heads: int
    head_dim: int
    hidden: int


class FfnSize(NamedTuple):
    """Intermediate dims, a multiple of 64, and the padded size of a row."""

    n_dims: int
    hidden: int


def attention_launches(plan: AttentionPlan, at: Rows, size: AttentionSize, gpu: Gpu) -> list[Launch]:
    """What `plan` launches, in order."""
    width = size.n_heads * size.head_dim
    is_context = plan.mode == "context"
    rows = CONTEXT_ROWS if is_context else ATTENTION_ROWS
    n_parts = 1 if is_context else -(-size.n_heads // plan.heads_per_part)
    launches = [
        costs.linear(at.rows, 3 * width, size.hidden, plan.project, gpu, "q, k, v"),
        costs.attention(at, *size, plan.mode, plan.heads_per_part, rows, gpu),
    ]
    if is_context:
        launches.append(costs.linear(at.rows, size.hidden, width, plan.out, gpu, "projection"))
    return launches if plan.mode == "whole" else [*launches, _sum(at, size.hidden, n_parts, is_context, gpu)]


def ffn_launches(plan: FfnPlan, at: Rows, size: FfnSize, gpu: Gpu) -> list[Launch]:
    """What `plan` launches, in order."""
    if plan.mode == "linear":
        up = costs.linear(at.rows, size.n_dims, size.hidden, plan.up, gpu, "up")
        down = costs.linear(at.rows, size.hidden, size.n_dims, plan.down, gpu, "down")
        return [up, down, _sum(at, size.hidden, 1, True, gpu)]
    launch = costs.ffn(at, *size, plan.tile, plan.parts, gpu)
    return [launch] if plan.mode == "whole" else [launch, _sum(at, size.hidden, plan.parts, False, gpu)]


def _sum(at: Rows, hidden: int, parts: int, is_low: bool, gpu: Gpu) -> Launch:
    return costs.finish(at.rows, hidden, parts, costs.ELEMENT if is_low else costs.PART, sum_rows(at.rows), gpu)


def attention_candidates(at: Rows, size: AttentionSize, gpu: Gpu) -> list[AttentionPlan]:
    """A plan for every number of heads a program, and one without the projection; their products as `best_linear`."""
    width = size.n_heads * size.head_dim
    project = best_linear(at.rows, 3 * width, size.hidden, gpu)
    out = best_linear(at.rows, size.hidden, width, gpu)
    whole = [
        AttentionPlan("whole" if heads == size.n_heads else "part", project, heads, out)
        for heads in range(1, size.n_heads + 1)
    ]
    return [AttentionPlan("context", project, 1, out), *whole]


def ffn_candidates(at: Rows, size: FfnSize, gpu: Gpu) -> list[FfnPlan]:
    """A plan for every tile and number of parts, and one of plain products."""
    up = best_linear(at.rows, size.n_dims, size.hidden, gpu)
    down = best_linear(at.rows, size.hidden, size.n_dims, gpu)
    tiles = ffn_tiles(size.hidden)
    found = [FfnPlan("linear", tiles[0], 1, up, down)]
    for tile in tiles:
        for parts in _divisors(size.n_dims // 64):
            found.append(FfnPlan("whole" if parts == 1 else "part", tile, parts, up, down))
    return found


@functools.lru_cache(maxsize=4096)
def plan_attention(at: Rows, size: AttentionSize, gpu: Gpu) -> AttentionPlan:
    return min(attention_candidates(at, size, gpu), key=lambda plan: total_us(attention_launches(plan, at, size, gpu)))


@functools.lru_cache(maxsize=4096)
def plan_ffn(at: Rows, size: FfnSize, gpu: Gpu) -> FfnPlan:
    return min(ffn_candidates(at, size, gpu), key=lambda plan: total_us(ffn_launches(plan, at, size, gpu)))


def total_us(launches: list[Launch]) -> float:
    return sum(launch.us for launch in launches)


def best_linear(n_rows: int, n_columns: int, depth: int, gpu: Gpu) -> LinearTile:
    return min(LINEAR_TILES, key=lambda tile: costs.linear(n_rows, n_columns, depth, tile, gpu).us)


def ffn_tiles(hidden: int) -> tuple[FfnTile, ...]:
    return FFN_TILES if hidden <= 768 else WIDE_FFN_TILES


def attention_stages(mode: str, hidden: int) -> int:
    """Of the loop over keys; hidden: of a padded row."""
    return 3 if (mode, hidden) in _THREE_STAGES else 2


def sum_rows(n_rows: int) -> int:
    """Rows of a program that sums parts: single ones where they are few, as each program reads all parts of its own."""
    return 1 if n_rows <= 1024 else 4


def depth_of(tile: LinearTile, depth: int) -> int:
    """What of a product's depth, a multiple of 16, is looked at together: it must divide it."""
    return next(block for block in (tile.depth, 64, 32, 16) if depth % block == 0)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, _MOST_PARTS + 1) if n % d == 0]
