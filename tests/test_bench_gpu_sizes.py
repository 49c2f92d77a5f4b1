"""The small shapes on which a sanitizer watches the kernels of python -m bench.gpu."""

from __future__ import annotations

import pytest
import torch

from bench.gpu.sizes import SMOKE, SMOKE_ON_GPU, smoke_sizes
from cofi_kernels.masked_attention.flash_tiles import HEAD_DIMS

pytest.importorskip("triton")
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from cofi_kernels.unit_products import tiling  # noqa: E402
from cofi_kernels.unit_products.tiling import split_last_round  # noqa: E402

GPUS = {"sm_80": (tiling._HALF_SM80, 108), "sm_90": (tiling._HALF, 132)}  # tiles of bf16, programs


def test_kernels_take_them():
    s = SMOKE_ON_GPU
    assert s.dtype == torch.bfloat16 and SMOKE.head_dim == s.head_dim and s.head_dim in HEAD_DIMS and min(s.live) < 1.0
    assert s.hidden % s.n_heads == 0  # or transformers refuses
    assert 500 <= s.tokens <= 1000 and s.seqlen > 64 and s.seqlen % 4  # two tiles; dropout's draws are not aligned
    assert smoke_sizes() is (SMOKE_ON_GPU if torch.cuda.is_available() else SMOKE)


@triton.jit
def _parts_kernel(parts_ptr, n_tiles, k_steps):
    if tl.program_id(0) == 0:  # every program would say the same
        _, parts = split_last_round(n_tiles, k_steps)
        tl.store(parts_ptr, parts)


@pytest.mark.parametrize("gpu", GPUS)
def test_programs_share_sums_by_parts_and_counters(device, gpu):
    """By the rule of the kernels themselves, each product of the FFN at one live fraction at least."""
    (tiles, programs), s = GPUS[gpu], SMOKE_ON_GPU
    tokens, hidden = triton.cdiv(s.tokens, tiles.m), triton.cdiv(s.hidden, tiles.n)
    shared = set()
    for live in s.live:
        n_units = round(s.intermediate * live)
        units = triton.cdiv(n_units, tiles.n)
        products = {
            "up": (tokens * units, s.hidden),
            "down": (tokens * hidden, n_units),
            "weight gradients": (2 * units * hidden, s.tokens),
        }
        for name, (n_tiles, n_inner) in products.items():
            parts = torch.zeros(1, dtype=torch.int32, device=device)
            _parts_kernel[(programs,)](parts, n_tiles, triton.cdiv(n_inner, tiles.k))
            shared |= {name} if parts.item() > 1 else set()
    assert shared == {"up", "down", "weight gradients"}
