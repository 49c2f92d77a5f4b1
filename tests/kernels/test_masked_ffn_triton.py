"""Masked feed-forward in Triton: in the interpreter (or on a GPU) against fp64, and compiled for each architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels.masked_ffn import reference
from cofi_kernels.testing import assert_close_to_fp64
from tests.kernels.oracle import CORNERS
from tests.kernels.test_masked_ffn import SHAPES, inputs_of

pytest.importorskip("triton")
from cofi_kernels.masked_ffn import triton_kernels  # noqa: E402

NAMES = ("dx", "dw_up", "db_up", "dw_down", "db_down", "dz_int", "dz_ffn", "dz_hidden")


def results(module: Any, inputs: dict[str, Tensor | None], dy: Tensor, activation: str) -> dict[str, Tensor]:
    """y and all gradients, by name."""
    x, w_up, b_up, w_down, b_down, *z = inputs.values()
    y, kept = module.forward(x, w_up, b_up, w_down, b_down, *z, activation)
    grads = module.backward(dy, x, w_up, w_down, b_down, *z, activation, kept)
    return {"y": y, **dict(zip(NAMES, grads, strict=True))}


def converted(inputs: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    return {name: None if t is None else t.to(dtype) for name, t in inputs.items()}


def assert_matches_fp64(inputs: dict[str, Tensor | None], activation: str = "gelu") -> None:
    dy = torch.randn_like(inputs["x"]) + 0.5
    want = results(reference, converted(inputs, torch.float64), dy.double(), activation)
    for name, got in results(triton_kernels, inputs, dy, activation).items():
        assert got.dtype == torch.float32
        assert_close_to_fp64(got, want[name], name=name)


@pytest.mark.parametrize("masks", CORNERS)
def test_value_and_gradients_match_fp64_under_every_mask(device, masks):
    assert_matches_fp64(inputs_of((37, 31, 97), masks, device))


@pytest.mark.parametrize("shape", [*SHAPES, (170, 33, 40)], ids=str)
def test_value_and_gradients_match_fp64_at_every_shape(device, shape):
    assert_matches_fp64(inputs_of(shape, "all kinds", device))


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_activation_matches_fp64(device, activation):
    assert_matches_fp64(inputs_of((37, 31, 97), "all kinds", device), activation)
