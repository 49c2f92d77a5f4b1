"""The compiled modules: `_C` (CPU kernels) and `_cuda`. Either may be absent; then this says why."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch

_OLDEST_GPU = (8, 0)  # _cuda holds code for sm_80 and later


class _Loaded(NamedTuple):
    module: ModuleType | None
    why_not: str | None


@functools.cache
def _load(name: str, absent: str) -> _Loaded:
    full_name = f"cofi_kernels.{name}"
    try:
        return _Loaded(importlib.import_module(full_name), None)
    except ModuleNotFoundError as error:
        if error.name != full_name:
            raise
        return _Loaded(None, f"{full_name} is not installed: {absent}")
    except ImportError as error:  # built, but for another machine or Python
        return _Loaded(None, f"{full_name} cannot be loaded: {error}")


def _load_c() -> _Loaded:
    return _load("_C", "built by `pip install .` unless COFI_BUILD_NATIVE=0")


def _load_cuda() -> _Loaded:
    return _load("_cuda", "built by `pip install .` where nvcc is found unless COFI_BUILD_CUDA=0")


def address(t: torch.Tensor | None) -> int:
    """Where a tensor's elements begin, 0 for none: as the functions of both modules take it."""
    return 0 if t is None else t.data_ptr()


def load_native() -> Any:  # not `ModuleType | None`: launchers run only where why_not_native() is None
    """The module of CPU kernels, `cofi_kernels._C`; None where it cannot be used.

    Its functions take addresses, sizes in elements and a thread count, check nothing, and release the interpreter lock.
    """
    return _load_c().module


def why_not_native() -> str | None:
    """None where `load_native` gives the module, otherwise the reason."""
    return _load_c().why_not


def is_emulated(precision: str) -> bool:
    """Whether this CPU makes products in "bf16" or "int8" without instructions for them: right, not as fast."""
    if precision == "fp32":
        return False
    native = load_native()
    if native is None:
        return True
    has_own = native.has_bf16() if precision == "bf16" else native.has_vnni()
    return not (has_own or native.has_amx())


def load_cuda() -> Any:
    """The module of CUDA kernels, `cofi_kernels._cuda`; None where it was not built. It imports without a driver."""
    return _load_cuda().module


def why_not_cuda() -> str | None:
    """None where the kernels of `_cuda` can run on the current GPU, otherwise the reason."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST_GPU:
        return f"needs compute capability 8.0 or later, this GPU has {capability[0]}.{capability[1]}"
    return _load_cuda().why_not
