"""Backends in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cofi_kernels import force_backend
from cofi_kernels.native import load_native, why_not_native


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
