"""How kernels are launched where there is a choice that only a GPU can judge: off unless asked for, a thread at a time.

Dependent launches: a kernel is on the GPU before the one in front of it has ended, and waits there for its end. From
compute capability 9.0 on; a launch in a replayed graph should then cost some 0.6 us instead of 1.3 (others' figures).

Tuned plans: ops that choose among several ways to launch measure them at the first call of each size, outside of a
capture, instead of taking the one that is predicted to be the fastest. What was measured counts in such blocks alone.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import torch

_LEAST_CAPABILITY = (9, 0)


class _Wanted(threading.local):
    dependent = False
    tuned = False


_wanted = _Wanted()


@contextlib.contextmanager
def launching(*, dependent: bool | None = None, tuned: bool | None = None) -> Iterator[None]:
    """Launch kernels of this thread so in the block, where the GPU can; None leaves a choice as it is."""
    before = _wanted.dependent, _wanted.tuned
    _wanted.dependent = before[0] if dependent is None else dependent
    _wanted.tuned = before[1] if tuned is None else tuned
    try:
        yield
    finally:
        _wanted.dependent, _wanted.tuned = before


def wants_tuned_plans() -> bool:
    return _wanted.tuned


def is_dependent(device: torch.device) -> bool:
    """Whether kernels on the device are launched dependent now."""
    return _wanted.dependent and device.type == "cuda" and _can(device)


def launch_options(device: torch.device) -> dict[str, Any]:
    """What a launch of a kernel with the constexpr DEPENDENT passes besides its arguments."""
    return {"DEPENDENT": True, "launch_pdl": True} if is_dependent(device) else {"DEPENDENT": False}


@functools.cache
def _can(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY
