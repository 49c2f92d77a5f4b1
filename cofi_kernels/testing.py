"""How close is close enough: the comparisons every kernel test uses, with the reason for each bound.

fp32 results must agree with the same equations in fp64 to 1e-5 of the largest value: some hundred roundings of
2^-24, well under what a wrong term would make. Low precision has no such absolute bound (its error grows with the
depth of the computation), so a kernel may err at most twice as much as eager PyTorch in that precision does.
"""

from __future__ import annotations

import torch
from torch import Tensor

FP32_TOLERANCE = 1e-5
EAGER_FACTOR = 2.0


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest absolute difference over the largest absolute value of `want`, both taken in fp64.

    NaN or infinity where `want` is finite gives infinity, and so does any difference where `want` is all zeros.
    Raises ValueError for different shapes: broadcasting would hide a wrong one.
    """
    if got.shape != want.shape:
        raise ValueError(f"got and want must have one shape, got {tuple(got.shape)} and {tuple(want.shape)}")
    if want.numel() == 0:
        return 0.0
    got64, want64 = got.detach().double().cpu(), want.detach().double().cpu()
    difference = (got64 - want64).abs().max().item()
    if difference == 0.0:
        return 0.0
    scale = want64.abs().max().item()
    ratio = difference / scale if scale > 0.0 else float("inf")
    return ratio if ratio == ratio else float("inf")


def assert_close_to_fp64(got: Tensor, want64: Tensor, *, name: str = "result") -> None:
    """An fp32 result against the same equations evaluated in fp64."""
    _require_fp64(want64)
    error = relative_error(got, want64)
    if not error <= FP32_TOLERANCE:
        raise AssertionError(f"{name}: relative error {error:.2e} against fp64, at most {FP32_TOLERANCE:.0e} allowed")


def assert_no_worse_than_eager(got: Tensor, eager: Tensor, want64: Tensor, *, name: str = "result") -> None:
    """A low-precision result may err at most twice as much as eager PyTorch in that precision, both against fp64.

    See `allowed_beside_eager`.
    """
    _require_fp64(want64)
    if got.dtype != eager.dtype:
        raise ValueError(f"got and eager must share a dtype, got {got.dtype} and {eager.dtype}")
    allowed = allowed_beside_eager(relative_error(eager, want64), eager.dtype)
    error = relative_error(got, want64)
    if not error <= allowed:
        raise AssertionError(f"{name}: relative error {error:.2e} against fp64, at most {allowed:.2e} allowed (eager)")


def allowed_beside_eager(eager_error: float, dtype: torch.dtype) -> float:
    """The relative error that a result may have where eager PyTorch has `eager_error`: twice that.

    Half a rounding step of `dtype` is allowed besides, so that an eager result that happens to be exact does not
    forbid a correctly rounded one.
    """
    return EAGER_FACTOR * eager_error + torch.finfo(dtype).eps / 2


def _require_fp64(want64: Tensor) -> None:
    if want64.dtype != torch.float64:
        raise ValueError(f"want64 must be torch.float64, got {want64.dtype}")
