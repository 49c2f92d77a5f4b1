"""Numbers that the official code produced, read from the folder of the `golden_dir` fixture.

The tests take every size, constant and step from the arrays, so that the folder may hold other numbers of the same
form. What the arrays mean is told where each is compared.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

# the official name of each mask kind
OFFICIAL_KINDS = {"head": "head", "int": "intermediate", "hidden": "hidden", "mha": "head_layer", "ffn": "mlp"}


def load(golden_dir: Path, name: str) -> Mapping[str, np.ndarray]:
    """The arrays of one file; the test is skipped where there is none, unless COFI_REQUIRE_GOLDEN=1."""
    path = golden_dir / f"{name}.npz"
    if not path.is_file():
        missing = pytest.fail if os.environ.get("COFI_REQUIRE_GOLDEN") == "1" else pytest.skip
        missing(f"{golden_dir} holds no {name}.npz")
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}


def tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def assert_gradient(got: Tensor | None, expected: np.ndarray, name: str = "", slack: float = 0.0) -> None:
    """1e-4 of the largest entry, plus `slack`: small entries of one gradient are rounded at the scale of its sums."""
    want = tensor(expected)
    got = torch.zeros_like(want) if got is None else got
    atol = 1e-4 * want.abs().max().item() + slack
    torch.testing.assert_close(got.reshape(want.shape), want, rtol=1e-4, atol=atol, msg=lambda text: f"{name}: {text}")
