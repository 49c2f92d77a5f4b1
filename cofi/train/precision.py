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


def check_precision(precision: str, device: torch.device) -> None:
    """Raises UserError for bf16 on a processor that would be slower at it than at fp32."""
    if device.type == "cpu" and precision == "bf16" and not has_fast_bf16():
        raise UserError("--precision bf16 needs a GPU or a processor with AMX (and Linux): take auto or fp32 here")


@contextmanager
def products_in(precision: str, device: torch.device) -> Iterator[None]:
    """On a CPU, in bf16: only the factors of matrix products are rounded, as they are packed for them.

    It is PyTorch's setting for the whole process, so it belongs around steps alone: scores and timings are of fp32.
    """
    if device.type != "cpu" or precision != "bf16":
        yield
        return
    # what set_float32_matmul_precision("medium") sets, and no GPU's besides
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # made at run time
    before = products.fp32_precision
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before
