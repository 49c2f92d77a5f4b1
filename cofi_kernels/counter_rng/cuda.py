"""Launchers of the CUDA kernels: allocate, pass addresses and the stream. The state is read on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cofi_kernels.counter_rng.reference import keep_threshold
from cofi_kernels.native import load_cuda

_KERNELS = {
    torch.float32: "counter_dropout_float32",
    torch.float16: "counter_dropout_float16",
    torch.bfloat16: "counter_dropout_bfloat16",
    torch.float64: "counter_dropout_float64",
}


def counter_uniform(state: Tensor, shape: Sequence[int]) -> Tensor:
    state = state.contiguous()
    u = torch.empty(shape, dtype=torch.float32, device=state.device)
    with torch.cuda.device_of(state):
        stream = torch.cuda.current_stream().cuda_stream
        load_cuda().counter_uniform(state.data_ptr(), u.data_ptr(), u.numel(), stream)
    return u


def counter_dropout(x: Tensor, p: float, state: Tensor) -> Tensor:
    x, state = x.contiguous(), state.contiguous()
    y = torch.empty_like(x)
    with torch.cuda.device_of(x):
        getattr(load_cuda(), _KERNELS[x.dtype])(
            x.data_ptr(),
            y.data_ptr(),
            state.data_ptr(),
            x.numel(),
            threshold=keep_threshold(p),
            scale=1.0 / (1.0 - p),
            stream=torch.cuda.current_stream().cuda_stream,
        )
    return y
