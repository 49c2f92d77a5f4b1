"""What the encoder asks of the device that it runs on."""

from __future__ import annotations

import functools

import torch

from cofi_kernels.compact_encoder import costs
from cofi_kernels.compact_encoder.costs import Gpu
from cofi_kernels.launching import is_dependent

_INTERPRETED_MULTIPROCESSORS = 132  # an H200's: on a CPU kernels are interpreted


def gpu_of(device: torch.device) -> Gpu:
    """With the cost of a launch as kernels are launched now."""
    return Gpu(_multiprocessors(device), costs.DEPENDENT_LAUNCH_US if is_dependent(device) else costs.LAUNCH_US)


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
