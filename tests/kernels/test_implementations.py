"""Implementations that no GPU has checked yet: taken by those who ask, named to all others."""

from __future__ import annotations

import pytest

from cofi_kernels.implementations import unverified
from cofi_kernels.library import Implementation

ABLE = Implementation("triton", "cuda", lambda: lambda: None, lambda: None)


def test_unverified_implementation_waits_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COFI_UNVERIFIED_GPU", raising=False)
    reason = unverified(ABLE).why_not()
    assert reason is not None and "COFI_UNVERIFIED_GPU=1" in reason
    monkeypatch.setenv("COFI_UNVERIFIED_GPU", "1")
    assert unverified(ABLE).why_not() is None
    unable = ABLE._replace(why_not=lambda: "torch sees no CUDA device")
    assert unverified(unable).why_not() == "torch sees no CUDA device"


@pytest.mark.parametrize("asked, is_taken", [("cuda", False), ("cuda,triton", True), ("triton", True), ("0", False)])
def test_unverified_implementation_is_asked_for_by_name(
    monkeypatch: pytest.MonkeyPatch, asked: str, is_taken: bool
) -> None:
    monkeypatch.setenv("COFI_UNVERIFIED_GPU", asked)
    assert (unverified(ABLE).why_not() is None) == is_taken
