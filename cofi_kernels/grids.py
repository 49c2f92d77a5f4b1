"""Grid sizes of persistent Triton kernels: a fixed number of programs that take their work from device values."""

from __future__ import annotations

import functools

import torch

# Under Triton's interpreter, where there is no GPU: few, so that every program finds more than one piece of work.
INTERPRETED_MULTIPROCESSORS = 2


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of the GPU `device`; a small constant for a CPU, where kernels are interpreted."""
    if device.type != "cuda":
        return INTERPRETED_MULTIPROCESSORS
    return _multiprocessors(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count
