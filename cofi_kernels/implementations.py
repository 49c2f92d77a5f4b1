"""The faster implementations of an op, as a family's op.py lists them: modules beside it, imported when called."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from cofi_kernels.library import Implementation
from cofi_kernels.native import why_not_cuda, why_not_native

_OLDEST_GPU = (8, 0)  # the Triton kernels use what sm_80 brought: bf16, asynchronous copies
_UNVERIFIED = "COFI_UNVERIFIED_GPU"  # a choice only a user can make: backends that no GPU has checked yet


def cpu(family: str, function: str) -> Implementation:
    """`function` of the module cpu.py in the package `family`: a launcher of `_C`."""
    return Implementation("cpu", "cpu", _loader(f"{family}.cpu", function), why_not_native)


def on_cpu(family: str, module: str, function: str) -> Implementation:
    """`function` of `module` in the package `family`, which needs only PyTorch; the backend is named after it."""
    return Implementation(module, "cpu", _loader(f"{family}.{module}", function), lambda: None)


def triton(
    family: str, function: str, declines: Callable[..., str | None] | None = None, limits: str = ""
) -> Implementation:
    """`function` of triton_kernels.py in the package `family`; `declines` and `limits` as `Implementation` has them."""
    load = _loader(f"{family}.triton_kernels", function)
    return Implementation("triton", "cuda", load, why_not_triton, declines, limits)


def cuda(
    family: str, function: str, declines: Callable[..., str | None] | None = None, limits: str = ""
) -> Implementation:
    """`function` of the module cuda.py in the package `family`: a launcher of `_cuda`; the rest as for `triton`."""
    return Implementation("cuda", "cuda", _loader(f"{family}.cuda", function), why_not_cuda, declines, limits)


def unverified(item: Implementation) -> Implementation:
    """`item` for those who ask for it: its results were compared with the reference on a CPU, not on a GPU.

    The variable is 1 for all of them, or names those wanted: "cuda", "triton,cuda".
    """
    return item._replace(why_not=lambda: item.why_not() or _why_not_unverified(item.backend))


def _why_not_unverified(backend: str) -> str | None:
    wanted = os.environ.get(_UNVERIFIED, "")
    if wanted == "1" or backend in wanted.split(","):
        return None
    return (
        "its results were not yet compared with the reference on a GPU; "
        f"{_UNVERIFIED}={backend} takes it all the same, {_UNVERIFIED}=1 the first of all that were not"
    )


def _loader(module: str, function: str) -> Callable[[], Callable[..., Any]]:
    return lambda: getattr(importlib.import_module(module), function)


@functools.cache
def why_not_triton() -> str | None:
    """None where Triton kernels can run on the current GPU, otherwise the reason."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST_GPU:
        return f"needs compute capability 8.0 or later, this GPU has {capability[0]}.{capability[1]}"
    return None
