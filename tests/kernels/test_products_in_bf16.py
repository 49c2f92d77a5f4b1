"""Products of factors in bf16, or in three pieces of it: every place of a factor is found again to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from cofi_kernels.native import address, load_native
from cofi_kernels.testing import assert_close_to_fp64

native = load_native()
pytestmark = [
    pytest.mark.skipif(native is None or not native.has_bf16(), reason="needs a processor with AVX512-BF16"),
    pytest.mark.parametrize("isa", ["avx512", "amx"], indirect=True),
    pytest.mark.parametrize("number", ["bf16", "split"]),
]

# tiles are 16 rows by 16 columns by 32 of K, two by two; 128 rows by 192 columns are one part of the work
SIZES = [(1, 1, 1), (2, 3, 5), (16, 32, 16), (17, 33, 31), (31, 64, 48), (32, 31, 47), (33, 65, 17), (48, 96, 64)]
LARGE = [(131, 97, 211), (260, 40, 401)]
EMPTY = [(0, 5, 7), (5, 0, 7), (5, 7, 0)]
ORDERS = [(False, False), (False, True), (True, False), (True, True)]

sizes = pytest.mark.parametrize("size", [*SIZES, *LARGE], ids=lambda s: "x".join(map(str, s)))
orders = pytest.mark.parametrize("order", ORDERS, ids=["a-b", "a-b.t", "a.t-b", "a.t-b.t"])


def placed(t: Tensor, by_columns: bool, apart: int) -> Tensor:
    """A copy of t, its rows or columns this much further apart than they are long, with NaN around."""
    t = t.t() if by_columns else t
    whole = torch.full((t.shape[0] + 2, t.shape[1] + apart), float("nan"))
    part = whole[1:-1, apart // 2 : apart // 2 + t.shape[1]].copy_(t)
    return part.t() if by_columns else part


def multiply(number, a, b, order=(False, False), apart=0, bias=None, k_scale=None, n_scale=None, threads=1):
    (m, k), n = a.shape, b.shape[1]
    a, b = placed(a, order[0], apart), placed(b, order[1], apart)
    whole = torch.full((m + 2, n + apart), float("nan"))
    out = whole[1:-1, apart // 2 : apart // 2 + n]
    native.matmul(
        a=a.data_ptr(),
        lda=a.stride(1 if order[0] else 0),
        a_by_columns=order[0],
        b=b.data_ptr(),
        ldb=b.stride(1 if order[1] else 0),
        b_by_columns=order[1],
        bias=address(bias),
        c=out.data_ptr(),
        ldc=whole.stride(0),
        m=m,
        n=n,
        k=k,
        threads=threads,
        k_scale=address(k_scale),
        n_scale=address(n_scale),
        number=number,
    )
    assert whole.isfinite().sum() <= out.numel(), "written beside the result"
    return out


def held(number: str, t: Tensor) -> Tensor:
    """What a factor becomes. Three pieces hold all of an fp32 number."""
    return t.bfloat16().float() if number == "bf16" else t


def wide(*shape: int) -> Tensor:
    """Numbers of many sizes."""
    return torch.randn(shape) * 2.0 ** torch.randint(-60, 60, shape)


@sizes
@orders
def test_an_element_of_a_comes_through_to_the_bit(isa, number, size, order):
    """One product of each sum is not zero."""
    m, k, n = size
    a, rows = wide(m, k), torch.randint(k, (n,))
    selection = one_hot(rows, k).t().float()
    for apart in (0, 7):
        assert torch.equal(multiply(number, a, selection, order, apart), held(number, a)[:, rows])


@sizes
@orders
def test_an_element_of_b_comes_through_to_the_bit(isa, number, size, order):
    """Scaled in fp32 first, then rounded. With powers of two the order of the two scales shows nowhere."""
    m, k, n = size
    b, columns, bias = wide(k, n), torch.randint(k, (m,)), torch.randn(n)
    selection = one_hot(columns, k).float()
    powers, any_size = (lambda n: 2.0 ** torch.randint(-3, 3, (n,))), torch.randn
    for apart in (0, 7):
        assert torch.equal(multiply(number, selection, b, order, apart), held(number, b)[columns])
        for of_k, of_n in ((powers, any_size), (any_size, powers)):
            k_scale, n_scale = of_k(k), of_n(n)
            rows = b * k_scale[:, None]
            assert torch.equal(
                multiply(number, selection, b, order, apart, bias, k_scale), held(number, rows)[columns] + bias
            )
            assert torch.equal(
                multiply(number, selection, b, order, apart, bias, n_scale=n_scale),
                held(number, b * n_scale)[columns] + bias,
            )
            assert torch.equal(
                multiply(number, selection, b, order, apart, bias, k_scale, n_scale),
                held(number, rows * n_scale)[columns] + bias,
            )


@sizes
@orders
def test_sums_match_fp64(isa, number, size, order):
    """Products of two bf16 are exact in fp32, so against rounded factors only additions differ."""
    m, k, n = size
    a, b, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    k_scale, n_scale = torch.rand(k), 2.0 ** torch.randint(-3, 3, (n,))
    scaled = b * k_scale[:, None] * n_scale
    for apart in (0, 7):
        want = held(number, a).double() @ held(number, b).double()
        assert_close_to_fp64(multiply(number, a, b, order, apart), want)
        want = held(number, a).double() @ held(number, scaled).double() + bias.double()
        assert_close_to_fp64(multiply(number, a, b, order, apart, bias, k_scale, n_scale), want)


@pytest.mark.parametrize("size", EMPTY, ids=lambda s: "x".join(map(str, s)))
@orders
def test_empty_factors(isa, number, size, order):
    m, k, n = size
    a, b, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n)
    assert torch.equal(multiply(number, a, b, order), torch.zeros(m, n))
    assert torch.equal(multiply(number, a, b, order, 7, bias, torch.randn(k), torch.randn(n)), bias.expand(m, n))


def test_each_product_of_pieces_counts(isa, number):
    """Without sums nothing covers what is missing: one of the six would be 2^-18 of the whole."""
    a, b = torch.randn(45, 1), torch.randn(1, 70)
    got, want = multiply(number, a, b).double(), held(number, a).double() @ held(number, b).double()
    assert ((got - want).abs() <= 2**-22 * want.abs()).all()


@orders
def test_bits_do_not_depend_on_threads(isa, number, order):
    a, b, bias, k_scale = torch.randn(300, 70), torch.randn(70, 500), torch.randn(500), torch.rand(70)
    one, *more = (multiply(number, a, b, order, 0, bias, k_scale, threads=threads) for threads in (1, 2, 3, 5))
    assert all(torch.equal(one, other) for other in more)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@orders
def test_values_that_are_not_finite_stay_in_their_row_and_column(isa, number, order, value):
    a, b = torch.rand(33, 65) + 0.5, torch.rand(65, 50) + 0.5
    want = a @ b
    a[17, 64], b[3, 40] = value, value
    got = multiply(number, a, b, order)
    reached = torch.zeros(33, 50, dtype=torch.bool)
    reached[17], reached[:, 40] = True, True
    torch.testing.assert_close(got[~reached], want[~reached], rtol=0.02, atol=0)
    lost = torch.tensor(value if number == "bf16" else float("nan"))
    torch.testing.assert_close(got[reached], lost.expand(82), equal_nan=True)
