"""What models compute in while training (--precision)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cofi.errors import UserError
from cofi_kernels.products import has_fast_bf16


def compute_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """What weights and activations are lowered to; None for the parameters' own dtype, always so on a CPU."""
    lowered = device.type != "cpu" and (precision == "bf16" or (precision == "auto" and device.type == "cuda"))
    return torch.bfloat16 if lowered else None


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """On a CPU, in bf16: only the factors of matrix products are rounded, as they are packed for them.

    Raises UserError where the processor would be slower at that than in fp32.
    """
    if device.type != "cpu" or precision != "bf16":
        yield
        return
    if not has_fast_bf16():
        raise UserError("--precision bf16 needs a GPU or a processor with AMX (and Linux): take auto or fp32 here")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
