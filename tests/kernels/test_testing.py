"""The comparisons every kernel test rests on: they must fail where they should."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager, relative_error


def test_relative_error_is_the_largest_difference_over_the_largest_value():
    want = torch.tensor([1.0, -4.0, 2.0])
    assert relative_error(want + torch.tensor([0.0, 0.0, 0.5]), want) == 0.125


def test_relative_error_of_equal_or_empty_tensors_is_zero():
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
    assert relative_error(torch.empty(0, 4), torch.empty(0, 4)) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_relative_error_of_what_is_not_finite_is_infinite(bad):
    assert relative_error(torch.tensor([1.0, bad]), torch.tensor([1.0, 1.0])) == float("inf")


def test_relative_error_against_zeros_is_infinite():
    assert relative_error(torch.tensor([1e-30]), torch.zeros(1)) == float("inf")


def test_relative_error_does_not_broadcast():
    with pytest.raises(ValueError, match=r"one shape, got \(3,\) and \(1, 3\)"):
        relative_error(torch.zeros(3), torch.zeros(1, 3))


def test_close_to_fp64_allows_rounding_and_no_more():
    want = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert_close_to_fp64((want * (1 + 3e-6)).float(), want)
    with pytest.raises(AssertionError, match="dx: relative error .* against fp64"):
        assert_close_to_fp64((want * (1 + 3e-5)).float(), want, name="dx")
    with pytest.raises(AssertionError):
        assert_close_to_fp64(torch.tensor([1.0, float("nan")]), want)


def test_close_to_fp64_wants_fp64():
    with pytest.raises(ValueError, match="want64 must be torch.float64, got torch.float32"):
        assert_close_to_fp64(torch.zeros(1), torch.zeros(1))


def test_no_worse_than_eager_allows_twice_its_error():
    want = torch.tensor([1.0, -1.0], dtype=torch.float64)
    eager = (want + 0.03).bfloat16()
    assert_no_worse_than_eager((want + 0.06).bfloat16(), eager, want)
    with pytest.raises(AssertionError, match="y: relative error"):
        assert_no_worse_than_eager((want + 0.09).bfloat16(), eager, want, name="y")


def test_no_worse_than_eager_compares_one_dtype():
    want = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="share a dtype, got torch.float16 and torch.bfloat16"):
        assert_no_worse_than_eager(want.half(), want.bfloat16(), want)
