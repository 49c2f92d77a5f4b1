"""Backends in turn; and Triton's interpreter, in which its kernels run where there is no GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest

from cofi_kernels import force_backend
from cofi_kernels.native import load_native, why_not_native


@pytest.fixture(autouse=True, scope="session")
def _interpreter_loops_over_device_values() -> Iterator[None]:
    """Let a loop bound be a tensor under numpy 2.4, as triton does since pull request 9172 (after 3.6)."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        yield
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", patched)
        yield


@pytest.fixture(params=["portable", "avx2", "avx512", "amx"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each version of the C++ kernels in turn, as far as this machine has them."""
    native = load_native()
    if native is None:
        pytest.skip(str(why_not_native()))
    native.limit_isa(request.param)
    try:
        if native.isa() != request.param:
            pytest.skip(f"this processor has no {request.param}")
        yield request.param
    finally:
        native.limit_isa("amx")


@pytest.fixture(params=["auto", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The best backend of this machine and the reference in turn."""
    with force_backend(request.param):
        yield request.param
