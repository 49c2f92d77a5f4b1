"""Launchers of the C++ kernels: allocate, pass addresses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_threshold
from cofi_kernels.native import load_native

_KERNELS = {
    torch.float32: "counter_dropout_float32",
    torch.bfloat16: "counter_dropout_bfloat16",
    torch.float64: "counter_dropout_float64",
}


def counter_uniform(state: Tensor, shape: Sequence[int]) -> Tensor:
    return uniform_range(state, 0, math.prod(shape)).view(shape)


def uniform_range(state: Tensor, first: int, n: int) -> Tensor:
    """Uniforms of the n elements from index `first` on, fp32 (n,)."""
    state = state.contiguous()
    u = torch.empty(n, dtype=torch.float32)
    load_native().counter_uniform(state.data_ptr(), u.data_ptr(), n, torch.get_num_threads(), first)
    return u


def counter_dropout(x: Tensor, p: float, state: Tensor) -> Tensor:
    if x.dtype == torch.float16:  # through fp32, with the same result: eager PyTorch rounds once as well
        return counter_dropout(x.float(), p, state).half()
    x, state = x.contiguous(), state.contiguous()
    y = torch.empty_like(x)
    run = getattr(load_native(), _KERNELS[x.dtype])
    run(
        x.data_ptr(),
        y.data_ptr(),
        state.data_ptr(),
        x.numel(),
        threshold=keep_threshold(p),
        scale=1.0 / (1.0 - p),
        threads=torch.get_num_threads(),
    )
    return y
