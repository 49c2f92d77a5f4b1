"""How exact a result must be before it is timed."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor

from cofi_kernels.testing import FP32_TOLERANCE, allowed_beside_eager, relative_error

FEW = 64  # numbers of which the largest error says little about the next draw


class Verdict(NamedTuple):
    """Largest relative error against fp64, and how large it may be."""

    error: float
    allowed: float

    @property
    def wrong(self) -> bool:
        return not self.error <= self.allowed

    def __str__(self) -> str:
        return f"relative error {self.error:.2e} against fp64, at most {self.allowed:.2e} allowed"


def judge(got: Tensor, eager: Tensor, want: Tensor, dtype: torch.dtype) -> Verdict:
    """`got` against `want` (fp64), where everything was computed in `dtype` and `eager` is the reference in it.

    fp32: as `judge_fp32`. Lower: twice eager's error and half a rounding step, as the tests ask. The step is that of
    the result's own dtype, so an fp32 gradient of many numbers is held to eager's error alone. Of a few numbers, as the
    gradients of heads or of a whole layer, eager's error is luck, and may be none; theirs is a step of `dtype`: they
    are sums of products that were rounded to it, which `leaning` keeps from cancelling, and so err less than one.
    Raises ValueError for another dtype than eager's.
    """
    if got.dtype != eager.dtype:
        raise ValueError(f"got and eager must share a dtype, got {got.dtype} and {eager.dtype}")
    if dtype == torch.float32:
        return judge_fp32(got, want)
    rounded_to = dtype if int(want.count_nonzero()) < FEW else eager.dtype
    return Verdict(_error(got, want), allowed_beside_eager(relative_error(eager, want), rounded_to))


def judge_fp32(got: Tensor, want: Tensor) -> Verdict:
    """The tolerance of the tests."""
    return Verdict(_error(got, want), FP32_TOLERANCE)


def _error(got: Tensor, want: Tensor) -> float:
    return min(relative_error(got, want), sys.float_info.max)  # JSON knows no infinity
