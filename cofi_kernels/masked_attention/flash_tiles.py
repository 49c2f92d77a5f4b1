"""Tile sizes of the attention kernels: the largest that spilled no register on sm_80, sm_90 and sm_100.

`tests/kernels/test_masked_attention_aot.py` compiles what these tables name. fp32 needs three tf32 products for one and
twice the bytes, so its tiles are small; drawing dropout where rows do not start at Philox blocks takes four times the
integer work and some registers more.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

HEAD_DIMS = (32, 64, 128)


class Tile(NamedTuple):
    """Queries and keys looked at together, and the launch of a program that does."""

    queries: int
    keys: int
    warps: int
    stages: int = 2

    def programs(self, n_items: int, multiprocessors: int) -> int:
        """Persistent programs: 256 registers a thread leave room for 8 warps on a multiprocessor."""
        return min(n_items, multiprocessors * (8 // self.warps))


def forward_tile(head_dim: int, dtype: torch.dtype, aligned: bool) -> Tile:
    if dtype == torch.float32:
        return Tile(32, 32, 8, 1)
    if head_dim > 64:
        return Tile(64, 32, 8)
    return Tile(64, 64 if aligned else 32, 4)


def keys_tile(head_dim: int, dtype: torch.dtype, aligned: bool, max_seqlen: int) -> tuple[Tile, bool]:
    """For dk and dv; and whether its keys are all that a sequence has, so that dq falls out as well.

    One stage: with two the compiler lets the next load into dc's memory while dc^T's product on sm_90 may still read it
    (Triton's issue 6691: dc is read into registers too, for delta). The tests of compilation look for that.
    """
    if dtype == torch.float32:
        return Tile(16, 32, 8, 1), max_seqlen <= 32
    if head_dim > 64:
        return Tile(32, 32, 8, 1), max_seqlen <= 32
    queries = 32 if aligned else 16
    if max_seqlen <= 64:
        return Tile(queries, 64, 4, 1), True
    return Tile(queries, 128, 8, 1), aligned and max_seqlen <= 128


def queries_tile(head_dim: int, dtype: torch.dtype, aligned: bool) -> Tile:
    """For dq of longer sequences."""
    if dtype == torch.float32:
        return Tile(32, 32, 8, 1)
    if head_dim > 64:
        return Tile(64 if aligned else 32, 32, 8)
    return Tile(64, 32, 4)
