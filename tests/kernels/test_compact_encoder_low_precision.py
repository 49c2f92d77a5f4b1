"""The encoder in int8 and bf16: products, states no worse than their definition, values that are not finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cofi_kernels import EncoderLayout, compact_encoder, force_backend
from cofi_kernels.compact_encoder import low_precision
from cofi_kernels.native import load_native, why_not_native
from cofi_kernels.testing import assert_close_to_fp64, relative_error
from tests.kernels.test_compact_encoder_cpu import HIDDEN, LAYOUT, bounds, in_fp64, random_case, run, weights_of

pytestmark = pytest.mark.skipif(load_native() is None, reason=str(why_not_native()))

INT8 = replace(LAYOUT, precision="int8")
# a rounding that falls the other way moves a value by one step of 255; twice the error of the definition covers it
FACTOR = 2.0


def assert_no_worse_than_definition(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout):
    want = in_fp64(x, lengths, weights, replace(layout, precision="fp32"))
    with force_backend("reference"):
        defined = run(x, lengths, weights, layout)
    got = run(x, lengths, weights, layout)
    assert relative_error(got, want) <= FACTOR * relative_error(defined, want) + 1e-5
    return got, defined


@pytest.fixture(params=["portable", "avx2", "avx512", "amx"])
def native_isa(request):
    native = load_native()
    native.limit_isa(request.param)
    yield native
    native.limit_isa("amx")


def addresses(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]


SHAPES = [(1, 1, 1), (7, 3, 17), (14, 764, 100), (15, 96, 48), (33, 130, 83), (5, 512, 764), (9, 0, 20), (3, 20, 0)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_products_equal_the_definition(native_isa, shape):
    """Integer sums are exact, so only the last fp32 operations may round differently."""
    m, k, n = shape
    x, weight, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    got = torch.full((m, n), float("nan"))
    native_isa.low_precision_matmul(
        "int8", x.data_ptr(), weight.data_ptr(), bias.data_ptr(), got.data_ptr(), m, n, k, 1
    )
    want = low_precision.int8_linear(x.double(), weight.double(), bias.double())
    q, step, low = low_precision.quantize_tokens(x)
    w, scale = low_precision.quantize_channels(weight)
    exact = scale.double() * (step.double() * (q.double() @ w.double()) + low.double() * w.double().sum(0)) + bias
    assert relative_error(got, exact) <= 1e-5 or relative_error(got, want) <= 1e-5


def test_largest_sums_do_not_overflow(native_isa):
    k = low_precision.MOST_DEPTH
    x, weight = torch.ones(2, k), torch.ones(k, 1)
    x[:, 0] = 0.0
    got = torch.empty(2, 1)
    native_isa.low_precision_matmul("int8", x.data_ptr(), weight.data_ptr(), 0, got.data_ptr(), 2, 1, k, 1)
    torch.testing.assert_close(got, torch.full((2, 1), float(k - 1)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_reach_the_result(native_isa, value):
    for k in (5, 70):
        x, weight, got = torch.randn(4, k), torch.randn(k, 3), torch.empty(4, 3)
        x[1, k - 1], weight[0, 2] = value, value
        native_isa.low_precision_matmul("int8", x.data_ptr(), weight.data_ptr(), 0, got.data_ptr(), 4, 3, k, 1)
        assert got[1].isnan().all() and got[:, 2].isnan().all()
        assert got[[0, 2, 3]][:, :2].isfinite().all()


@pytest.mark.parametrize("fill", [0.0, -3.0, 1e-38])
def test_constant_tokens(native_isa, fill):
    x, weight, got = torch.full((2, 40), fill), torch.randn(40, 5), torch.empty(2, 5)
    native_isa.low_precision_matmul("int8", x.data_ptr(), weight.data_ptr(), 0, got.data_ptr(), 2, 5, 40, 1)
    want = low_precision.int8_linear(x.double(), weight.double(), None)
    assert (got.double() - want).abs().max() <= 1e-5 * max(abs(fill), 1e-30) * 40


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_bf16_products_equal_the_definition(native_isa, shape):
    """Products of two bf16 are exact in fp32, so only the order of the additions differs."""
    m, k, n = shape
    x, weight, bias, got = torch.randn(m, k), torch.randn(k, n), torch.randn(n), torch.full((m, n), float("nan"))
    native_isa.low_precision_matmul(
        "bf16", x.data_ptr(), weight.data_ptr(), bias.data_ptr(), got.data_ptr(), m, n, k, 1
    )
    assert_close_to_fp64(got, low_precision.bf16_linear(x.double(), weight.double(), bias.double()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bf16_carries_values_that_are_not_finite(native_isa, value):
    x, weight, got = torch.randn(3, 9), torch.rand(9, 2) + 0.5, torch.empty(3, 2)
    x[1, 8] = value
    native_isa.low_precision_matmul("bf16", x.data_ptr(), weight.data_ptr(), 0, got.data_ptr(), 3, 2, 9, 1)
    torch.testing.assert_close(got[1], torch.full((2,), value), equal_nan=True)
    assert got[[0, 2]].isfinite().all()


LOW = pytest.mark.parametrize("precision", ["int8", "bf16"])


@LOW
def test_every_instruction_set(isa, precision):
    lengths = [130, 1, 0, 17, 512, 3, 250]
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    assert_no_worse_than_definition(x, lengths, weights, replace(LAYOUT, precision=precision))


@LOW
def test_threads_and_chunks_change_no_bit(precision):
    lengths = [130, 1, 0, 17, 512, 3, 250]
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(run(x, lengths, weights, replace(LAYOUT, precision=precision)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@LOW
@pytest.mark.parametrize("first", range(0, 300, 100))
def test_random_structures(first, precision):
    for seed in range(first, first + 100):
        torch.manual_seed(seed)
        layout, hidden, lengths = random_case(seed)
        x, weights = torch.randn(sum(lengths), hidden), weights_of(layout, hidden)
        assert_no_worse_than_definition(x, lengths, weights, replace(layout, precision=precision))


def test_error_is_of_eight_bits():
    """Not a test of taste: one bit fewer would double it."""
    layout = replace(LAYOUT, heads=(4,), intermediate=(600,), mha=(True,), ffn=(True,), head_dim=32, precision="int8")
    x, weights = torch.randn(64, 128), weights_of(layout, 128)
    error = relative_error(run(x, [64], weights, layout), in_fp64(x, [64], weights, replace(layout, precision="fp32")))
    assert 1e-4 < error < 0.02


def test_fp32_and_int8_do_not_share_packed_weights():
    x, weights = torch.randn(9, HIDDEN), weights_of(LAYOUT, HIDDEN)
    first = run(x, [9], weights, LAYOUT)
    assert not torch.equal(run(x, [9], weights, INT8), first)
    assert torch.equal(run(x, [9], weights, LAYOUT), first)


def test_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of fp32, int8, bf16, got 'int4'"):
        replace(LAYOUT, precision="int4")


def test_other_devices_are_refused():
    x = torch.empty(3, HIDDEN, device="meta")
    with pytest.raises(ValueError, match="layout.precision must be 'fp32' on a meta device"):
        compact_encoder(x, bounds([3]).to("meta"), 3, weights_of(LAYOUT, HIDDEN), INT8)
