# mypy: disallow-untyped-defs=False
"""Dependent launches: a kernel that is on the GPU before the one in front of it has ended, and waits there for its end.

Between kernels that follow one another in a stream, or in a captured graph, a GPU of compute capability 9.0 then spends
some 0.6 us instead of 1.3 (guessed from others' measurements; never measured here, and so off unless asked for).

Every kernel launched so must call `wait_for_inputs` before it touches memory, also in programs that have nothing to do:
a grid ends, for the one behind it, when all its programs have waited or ended.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

_LEAST_CAPABILITY = (9, 0)


class _Wanted(threading.local):
    value = False


_wanted = _Wanted()


@contextlib.contextmanager
def dependent_launches(wanted: bool = True) -> Iterator[None]:
    """Launch kernels of this thread so in the block, where the GPU can; others launch as usual."""
    before, _wanted.value = _wanted.value, wanted
    try:
        yield
    finally:
        _wanted.value = before


def launch_options(device: torch.device) -> dict[str, Any]:
    """What a launch of a kernel with the constexpr DEPENDENT passes besides its arguments."""
    if _wanted.value and device.type == "cuda" and _can(device):
        return {"DEPENDENT": True, "launch_pdl": True}
    return {"DEPENDENT": False}


@functools.cache
def _can(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr):
    """Wait until all that kernels in front have written can be read, then let the one behind come onto the GPU."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()
