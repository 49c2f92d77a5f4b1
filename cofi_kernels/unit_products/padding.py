"""Sizes that code without Triton shares with the products."""

from __future__ import annotations

PAD = 16  # device-read sizes are rounded up to this with zeros, so that a masked load still moves 16 bytes at a time
TILE_COUNTERS = 1024  # at least one for every program: one for each of the multiprocessors, of which sm_100 has 148


def padded(n: int) -> int:
    """n rounded up to a multiple of PAD: rows or columns that a buffer for n of them needs."""
    return -(-n // PAD) * PAD


def n_integers(n_units: int) -> int:
    """How many int32 `tiling.new_work` wants for its counters, the number of live units and their list."""
    return TILE_COUNTERS + PAD + n_units
