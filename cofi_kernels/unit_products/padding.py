"""The one size that code without Triton shares with the products."""

from __future__ import annotations

PAD = 16  # device-read sizes are rounded up to this with zeros, so that a masked load still moves 16 bytes at a time


def padded(n: int) -> int:
    """n rounded up to a multiple of PAD: rows or columns that a buffer for n of them needs."""
    return -(-n // PAD) * PAD
