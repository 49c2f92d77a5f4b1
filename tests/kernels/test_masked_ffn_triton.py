"""Masked feed-forward in Triton: in the interpreter (or on a GPU) against fp64, and compiled for each architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from cofi_kernels.masked_ffn import reference, workspace
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager
from tests.kernels.oracle import CORNERS
from tests.kernels.test_masked_ffn import SHAPES, inputs_of

pytest.importorskip("triton")
from cofi_kernels.masked_ffn import triton_kernels  # noqa: E402

NAMES = ("dx", "dw_up", "db_up", "dw_down", "db_down", "dz_int", "dz_ffn", "dz_hidden")


def results(module: Any, inputs: dict[str, Tensor | None], dy: Tensor, activation: str) -> dict[str, Tensor]:
    """y and all gradients, by name."""
    x, w_up, b_up, w_down, b_down, *z = inputs.values()
    y, kept = module.forward(x, w_up, b_up, w_down, b_down, *z, activation, True)
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


@pytest.mark.parametrize("shape", [*SHAPES, (170, 33, 40), (7, 128, 20), (5, 1024, 9)], ids=str)
def test_value_and_gradients_match_fp64_at_every_shape(device, shape):
    assert_matches_fp64(inputs_of(shape, "all kinds", device))


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_activation_matches_fp64(device, activation):
    assert_matches_fp64(inputs_of((37, 31, 97), "all kinds", device), activation)


HALVES = {
    "half weights": ("all kinds", torch.float16),
    "fp32 masters": ("all kinds", torch.float32),
    "one unit": ("one unit", torch.float16),
    "no unit": ("no unit", torch.float16),
    "dead layer": ("dead layer", torch.float32),
    "no hidden dim": ("no hidden dim", torch.float32),
}


@pytest.mark.parametrize("masks, masters", HALVES.values(), ids=HALVES)
def test_half_precision_is_no_worse_than_eager(device, masks, masters):
    """fp16 activations under fp32 masks, with weights of either dtype; a gradient has the dtype of what it is for."""
    inputs = inputs_of((70, 64, 97) if masks == "all kinds" else (20, 31, 97), masks, device)
    inputs["x"] = inputs["x"].half()
    for name in ("w_up", "b_up", "w_down", "b_down"):
        inputs[name] = inputs[name].half().to(masters)  # what eager PyTorch multiplies in either case
    dy = (torch.randn_like(inputs["x"], dtype=torch.float32) + 0.5).half()
    eager = results(reference, inputs, dy, "gelu")
    want = results(reference, converted(inputs, torch.float64), dy.double(), "gelu")
    for name, got in results(triton_kernels, inputs, dy, "gelu").items():
        is_mask, is_weight = name.startswith("dz"), name[1:] in inputs and not name[1:].startswith("x")
        assert got.dtype == (torch.float32 if is_mask else masters if is_weight else torch.float16)
        assert_no_worse_than_eager(got.half(), eager[name].half(), want[name], name=name)


def test_dead_units_are_never_computed(device):
    """A weight row that is not a number shows itself in every product that it enters."""
    inputs = inputs_of((40, 31, 97), "all kinds", device)
    dead = inputs["z_int"] == 0
    for name in ("w_up", "b_up", "w_down"):
        inputs[name][dead] = float("nan")
    got = results(triton_kernels, inputs, torch.randn(40, 31, device=device), "gelu")
    assert all(t.isfinite().all() for t in got.values())
    assert not any(got[name][dead].any() for name in ("dw_up", "db_up", "dw_down", "dz_int"))


def test_dead_layer_touches_nothing(device):
    inputs = inputs_of((9, 31, 97), "dead layer", device)
    inputs = {name: t if name == "z_ffn" else torch.full_like(t, float("nan")) for name, t in inputs.items()}
    got = results(triton_kernels, inputs, torch.full((9, 31), float("nan"), device=device), "gelu")
    assert not any(t.any() for t in got.values())


def test_only_live_columns_are_kept(device):
    """Of 97 dims one lives: 16 columns and rows are written, the dead ones as if their weights were 0."""
    inputs = inputs_of((20, 31, 97), "one unit", device)
    _, kept = triton_kernels.forward(*inputs.values(), "gelu", True)
    saved = workspace.views(kept, 20, 97, 31)
    assert kept.numel() == workspace.triton_numel(inputs["x"], 97)
    for units in (saved.h.t(), saved.derivative.t(), saved.w_up, saved.w_down):
        assert units[:16].isfinite().all() and units[16:].isnan().all()  # torch.empty gives NaN in tests
    assert saved.h[:, 0].any() and not saved.h[:, 1:16].any()


def test_nothing_is_kept_where_no_backward_comes(device):
    inputs = inputs_of((37, 31, 97), "all kinds", device)
    want, _ = triton_kernels.forward(*inputs.values(), "gelu", True)
    got, kept = triton_kernels.forward(*inputs.values(), "gelu", False)
    assert torch.equal(got, want) and kept.numel() == 0


def test_not_a_number_is_not_hidden(device):
    inputs = inputs_of((3, 24, 40), "all live", device)
    inputs["x"][1, 2] = float("nan")
    for activation in ("gelu", "gelu_new", "relu"):
        y, _ = triton_kernels.forward(*inputs.values(), activation, True)
        assert y.isnan().all(1).tolist() == [False, True, False]


def test_accepts_tensors_that_are_not_contiguous(device):
    inputs = inputs_of((37, 31, 97), "all kinds", device)
    dy = torch.randn(37, 31, device=device)
    strided = {name: t if t.dim() == 0 else t.repeat_interleave(2, 0)[::2] for name, t in inputs.items()}
    want = results(triton_kernels, inputs, dy, "gelu")
    got = results(triton_kernels, strided, dy.t().contiguous().t(), "gelu")
    assert all(torch.equal(got[name], want[name]) for name in want)


@pytest.mark.parametrize("masters", [torch.bfloat16, torch.float32], ids=["half weights", "fp32 masters"])
def test_fakes_of_a_gpu_have_the_shapes_of_the_kernels(masters):
    inputs = inputs_of((20, 31, 97), "all kinds", "cpu")
    given = {name: t.to(masters) if name[0] in "wb" else t for name, t in inputs.items()} | {
        "x": inputs["x"].bfloat16()
    }
    dy = torch.randn(20, 31).bfloat16()
    want = results(triton_kernels, given, dy, "gelu")
    _, kept = triton_kernels.forward(*given.values(), "gelu", True)
    with FakeTensorMode():
        fake = {name: torch.empty(t.shape, dtype=t.dtype, device="cuda") for name, t in given.items()}
        y, fake_kept = torch.ops.cofi_kernels.masked_ffn(*fake.values(), "gelu", True)
        x, w_up, _, w_down, b_down, *z = fake.values()
        dy = torch.empty(dy.shape, dtype=dy.dtype, device="cuda")
        grads = torch.ops.cofi_kernels.masked_ffn_backward(dy, x, w_up, w_down, b_down, *z, "gelu", fake_kept)
    assert fake_kept.shape == kept.shape
    for name, got in {"y": y, **dict(zip(NAMES, grads, strict=True))}.items():
        assert (got.shape, got.dtype, got.device.type) == (want[name].shape, want[name].dtype, "cuda"), name
