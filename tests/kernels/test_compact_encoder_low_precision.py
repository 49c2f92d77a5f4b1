"""The encoder in int8 and bf16: products (fp32's in pieces as well), states no worse than their definition, values that
are not finite."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cofi_kernels import EncoderLayout, compact_encoder, force_backend
from cofi_kernels.compact_encoder import low_precision, packed
from cofi_kernels.native import address, is_emulated, load_native, why_not_native
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


def test_a_precision_is_emulated_where_its_instructions_are_out_of_use(native_isa):
    assert not is_emulated("fp32")
    assert is_emulated("int8") != native_isa.has_vnni()  # whoever has AMX has both
    assert is_emulated("bf16") != (native_isa.has_bf16() or native_isa.has_amx())
    native_isa.limit_isa("avx2")
    assert is_emulated("int8") and is_emulated("bf16")


def multiplied(native, number: str, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    (m, k), n = x.shape, weight.shape[1]
    out, at = torch.full((m, n), float("nan")), address(bias)
    native.low_precision_matmul(number, x.data_ptr(), weight.data_ptr(), at, out.data_ptr(), m, n, k, 1)
    return out


# tiles are of 16 rows, two of them by two panels of 16 columns, one by three
SHAPES = [(1, 1, 1), (7, 3, 17), (14, 764, 100), (15, 96, 48), (33, 130, 83), (5, 512, 764), (9, 0, 20), (3, 20, 0)]
SHAPES += [(16, 32, 16), (17, 64, 33), (32, 31, 31), (64, 65, 64), (79, 97, 49)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_products_equal_the_definition(native_isa, shape):
    """Integer sums are exact, so only the last fp32 operations may round differently."""
    m, k, n = shape
    x, weight, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    got = multiplied(native_isa, "int8", x, weight, bias)
    want = low_precision.int8_linear(x.double(), weight.double(), bias.double())
    q, step, low = low_precision.quantize_tokens(x)
    w, scale = low_precision.quantize_channels(weight)
    exact = scale.double() * (step.double() * (q.double() @ w.double()) + low.double() * w.double().sum(0)) + bias
    assert relative_error(got, exact) <= 1e-5 or relative_error(got, want) <= 1e-5


def test_largest_sums_do_not_overflow(native_isa):
    k = low_precision.MOST_DEPTH
    x, weight = torch.ones(2, k), torch.ones(k, 1)
    x[:, 0] = 0.0
    got = multiplied(native_isa, "int8", x, weight)
    torch.testing.assert_close(got, torch.full((2, 1), float(k - 1)))


def test_sums_that_could_overflow_are_refused():
    """In int8, and where they are as deep: the FFN's are cut into blocks, and bf16 has no such end."""
    most = low_precision.MOST_DEPTH
    wide = replace(LAYOUT, heads=(2,), intermediate=(most + 1,), mha=(True,), ffn=(True,), head_dim=most // 2)
    replace(wide, precision="int8")
    replace(wide, heads=(3,), precision="bf16")
    with pytest.raises(ValueError, match="heads times head_dim must be at most 66000 in int8, .* got 66002"):
        replace(wide, head_dim=most // 2 + 1, precision="int8")

    layout = replace(INT8, heads=(0,), intermediate=(0,), mha=(False,), ffn=(True,))
    run(torch.randn(1, most), [1], weights_of(layout, most), layout)
    with pytest.raises(ValueError, match="n_hidden must be at most 66000 in int8, .* got 66001"):
        run(torch.randn(1, most + 1), [1], weights_of(layout, most + 1), layout)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_reach_the_result(native_isa, value):
    for k in (5, 70):
        x, weight = torch.randn(4, k), torch.randn(k, 3)
        x[1, k - 1], weight[0, 2] = value, value
        got = multiplied(native_isa, "int8", x, weight)
        assert got[1].isnan().all() and got[:, 2].isnan().all()
        assert got[[0, 2, 3]][:, :2].isfinite().all()


@pytest.mark.parametrize("fill", [0.0, -3.0, 1e-38])
def test_constant_tokens(native_isa, fill):
    x, weight = torch.full((2, 40), fill), torch.randn(40, 5)
    got = multiplied(native_isa, "int8", x, weight)
    want = low_precision.int8_linear(x.double(), weight.double(), None)
    assert (got.double() - want).abs().max() <= 1e-5 * max(abs(fill), 1e-30) * 40


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_bf16_products_equal_the_definition(native_isa, shape):
    """Products of two bf16 are exact in fp32, so only the order of the additions differs."""
    m, k, n = shape
    x, weight, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    got = multiplied(native_isa, "bf16", x, weight, bias)
    assert_close_to_fp64(got, low_precision.bf16_linear(x.double(), weight.double(), bias.double()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_bf16_carries_values_that_are_not_finite(native_isa, value):
    x, weight = torch.randn(3, 9), torch.rand(9, 2) + 0.5
    x[1, 8] = value
    got = multiplied(native_isa, "bf16", x, weight)
    torch.testing.assert_close(got[1], torch.full((2,), value), equal_nan=True)
    assert got[[0, 2]].isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_products_in_pieces_are_those_of_fp32(native_isa, shape):
    m, k, n = shape
    x, weight, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    got = multiplied(native_isa, "split", x, weight, bias)
    assert_close_to_fp64(got, x.double() @ weight.double() + bias.double())
    if k > 0:  # pieces add up to the number
        rows, columns = torch.randint(k, (n,)), torch.randint(k, (m,))
        assert torch.equal(multiplied(native_isa, "split", x, one_hot(rows, k).t().float().contiguous()), x[:, rows])
        assert torch.equal(multiplied(native_isa, "split", one_hot(columns, k).float(), weight), weight[columns])


def test_six_products_of_pieces_count(native_isa):
    """Without sums nothing covers what is missing: one of them would be 2^-18 of the whole."""
    x, weight = torch.randn(50, 1), torch.randn(1, 70)
    got, want = multiplied(native_isa, "split", x, weight).double(), x.double() @ weight.double()
    assert ((got - want).abs() <= 2**-22 * want.abs()).all()


# the largest fp32 number is beyond bf16's range
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), torch.finfo(torch.float32).max])
def test_values_without_three_pieces_give_nan(native_isa, value):
    for k in (5, 70):
        x, weight = torch.randn(40, k), torch.randn(k, 20)
        want = x.double() @ weight.double()
        x[33, k - 1], weight[0, 17] = value, value
        got = multiplied(native_isa, "split", x, weight)
        assert got[33].isnan().all() and got[:, 17].isnan().all()
        rows, columns = torch.arange(40) != 33, torch.arange(20) != 17
        assert_close_to_fp64(got[rows][:, columns], want[rows][:, columns])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_int8_has_the_same_bits_on_tiles(shape):
    """Integer sums are exact, and what surrounds them is fused alike."""
    native = load_native()
    if not native.has_amx():
        pytest.skip("this processor has no amx")
    m, k, n = shape
    x, weight, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    on_tiles = multiplied(native, "int8", x, weight, bias)
    native.limit_isa("avx512")
    try:
        assert torch.equal(multiplied(native, "int8", x, weight, bias), on_tiles)
    finally:
        native.limit_isa("amx")


LOW = pytest.mark.parametrize("precision", ["int8", "bf16"])


@LOW
def test_every_instruction_set(isa, precision):
    lengths = [130, 1, 0, 17, 512, 3, 250]
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    assert_no_worse_than_definition(x, lengths, weights, replace(LAYOUT, precision=precision))


@LOW
@pytest.mark.parametrize(("packs", "runs"), [("amx", "avx512"), ("amx", "portable"), ("portable", "amx")])
def test_packed_weights_serve_every_instruction_set(precision, packs, runs):
    lengths, layout = [130, 1, 17], replace(LAYOUT, precision=precision)
    x, weights = torch.randn(sum(lengths), HIDDEN), weights_of(LAYOUT, HIDDEN)
    native = load_native()
    try:
        native.limit_isa(packs)
        run(x, lengths, weights, layout)
        known = packed.find_packed(x, weights, layout)
        native.limit_isa(runs)
        assert_no_worse_than_definition(x, lengths, weights, layout)
        assert known is not None and packed.find_packed(x, weights, layout) is known
    finally:
        native.limit_isa("amx")


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
