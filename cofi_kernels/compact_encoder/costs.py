"""What each launch of the encoder has to do, and how long a Hopper GPU is taken to need for it.

The numbers rank ways to launch a sublayer; none was held against a clock. T rows in B sequences of like length, H heads
of D dims, I intermediate dims, E hidden, all padded.
"""

from __future__ import annotations

from typing import NamedTuple

LAUNCH_US = 1.3  # of one kernel in a replayed graph
DEPENDENT_LAUNCH_US = 0.6  # of one that is on the GPU before the kernel in front of it has ended
START_US = 1.5  # until a program's first tile has come from L2
MULTIPROCESSOR_BYTES_PER_US = 80_000  # that one multiprocessor draws from L2
L2_BYTES_PER_US = 5_500_000  # that all of them draw together
FLOPS_PER_US = 3_000_000  # of one multiprocessor's tensor cores at half their rate
MEMORY_BYTES_PER_US = 4_300_000
ELEMENT = 2  # bytes of bf16 and fp16
PART = 4  # bytes of a part of a sum


class Gpu(NamedTuple):
    """Multiprocessors, and the cost of a launch on it."""

    sm: int
    launch_us: float = LAUNCH_US


class Launch(NamedTuple):
    """n_bytes: inputs read once and outputs written once; us: what it is taken to need."""

    kernel: str
    what: str
    programs: int
    n_bytes: int
    flops: int
    us: float


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


class Rows(NamedTuple):
    """T and B; what a plan is made for, with the size of the sublayer."""

    rows: int
    sequences: int

    @property
    def length(self) -> int:
        return -(-self.rows // max(self.sequences, 1))


def linear(n_rows: int, n_columns: int, depth: int, tile: LinearTile, gpu: Gpu, what: str = "") -> Launch:
    programs = -(-n_rows // tile.rows) * -(-n_columns // tile.columns)
    each, flops = (tile.rows + tile.columns) * depth * ELEMENT, 2 * tile.rows * tile.columns * depth
    n_bytes = (n_rows * depth + n_columns * depth + n_rows * n_columns) * ELEMENT
    us = _us(programs, each, flops, gpu)
    return Launch("linear_kernel", what, programs, n_bytes, 2 * n_rows * n_columns * depth, us)


def attention(at: Rows, n_heads: int, head_dim: int, hidden: int, mode: str, heads: int, rows: int, gpu: Gpu) -> Launch:
    """Of blocks of `rows` queries and `heads` heads a program; mode: as `sublayer_kernels.attention_kernel` has it."""
    n_parts = -(-n_heads // heads)
    programs = -(-at.length // rows) * at.sequences * n_parts
    own_rows = mode != "context"
    each = 2 * at.length * head_dim * ELEMENT + head_dim * hidden * ELEMENT * own_rows
    flops = rows * (4 * at.length * head_dim + 2 * head_dim * hidden * own_rows)
    width = n_heads * head_dim
    written = {
        "whole": 2 * at.rows * hidden * ELEMENT,  # and the residual that is read
        "part": n_parts * at.rows * hidden * PART,
        "context": at.rows * width * ELEMENT,
    }
    n_bytes = (3 * at.rows * width + width * hidden * own_rows) * ELEMENT + written[mode]
    total = at.rows * n_heads * (flops // rows)
    us = _us(programs, heads * each, heads * flops, gpu)
    return Launch("attention_kernel", f"attention, {mode}", programs, n_bytes, total, us)


def ffn(at: Rows, n_dims: int, hidden: int, tile: FfnTile, parts: int, gpu: Gpu) -> Launch:
    programs = -(-at.rows // tile.rows) * parts
    weights = 2 * hidden * (n_dims // parts)
    us = _us(programs, weights * ELEMENT, 2 * tile.rows * weights, gpu)
    written = at.rows * hidden * (ELEMENT if parts == 1 else parts * PART)
    n_bytes = (2 * hidden * n_dims + at.rows * hidden) * ELEMENT + written
    mode = "whole" if parts == 1 else f"{parts} parts"
    return Launch("ffn_kernel", f"up and down, {mode}", programs, n_bytes, 4 * at.rows * hidden * n_dims, us)


def finish(n_rows: int, hidden: int, parts: int, element: int, rows: int, gpu: Gpu) -> Launch:
    """`parts` of `element` bytes each; its time counts the writing of the parts too, by the launch in front."""
    residual = 2 * ELEMENT
    us = gpu.launch_us + START_US + n_rows * hidden * (2 * parts * element + residual) / MEMORY_BYTES_PER_US
    n_bytes = n_rows * hidden * (parts * element + residual)
    return Launch("finish_kernel", f"sum of {parts}, LayerNorm", -(-n_rows // rows), n_bytes, 0, us)


def _us(programs: int, n_bytes: int, flops: int, gpu: Gpu) -> float:
    """`programs` of so many bytes and flops each, spread over the multiprocessors."""
    rounds = -(-programs // gpu.sm)
    rate = min(MULTIPROCESSOR_BYTES_PER_US, L2_BYTES_PER_US / max(1, min(programs, gpu.sm)))
    return gpu.launch_us + START_US + rounds * max(n_bytes / rate, flops / FLOPS_PER_US)
