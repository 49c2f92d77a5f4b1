"""The poisoning of new memory in conftest.py works, or the tests that rely on it prove less than they say."""

from __future__ import annotations

import pytest
import torch

ALLOCATIONS = {
    "empty": lambda: torch.empty(5),
    "empty with gradient": lambda: torch.empty(5, requires_grad=True),
    "empty_like": lambda: torch.empty_like(torch.zeros(5)),
    "empty_strided": lambda: torch.empty_strided((5,), (1,)),
    "new_empty": lambda: torch.zeros(5).new_empty(5),
}


@pytest.mark.parametrize("allocate", ALLOCATIONS.values(), ids=ALLOCATIONS.keys())
def test_new_memory_is_nan(allocate) -> None:
    assert allocate().isnan().all()
