"""Matrix products against fp64: sizes no tile divides, operands stored either way, views, what falls to PyTorch; and
which factors are rounded to bf16 when."""

from __future__ import annotations

import pytest
import torch

from cofi_kernels import products
from cofi_kernels.native import load_native, why_not_native
from cofi_kernels.products import has_fast_bf16, matmul
from cofi_kernels.testing import assert_close_to_fp64, relative_error

SIZES = {
    "tiles": (96, 768, 64),
    "odd": (131, 257, 101),
    "deep": (17, 2051, 33),
    "narrow": (300, 40, 1),
    "wide": (16, 16, 1100),
    "few rows": (3, 50, 70),
    "no row": (0, 5, 7),
    "no column": (20, 5, 0),
    "no depth": (20, 0, 7),
}


@pytest.fixture(autouse=True)
def _always_native(monkeypatch):
    monkeypatch.setattr(products, "LEAST_ROWS", 0)
    monkeypatch.setattr(products, "LEAST_WORK", 0)
    if load_native() is not None:
        monkeypatch.setattr(products, "_has_vectors", lambda: True)  # the portable version too


@pytest.mark.parametrize("a_by_columns", [False, True], ids=["a", "a.t()"])
@pytest.mark.parametrize("b_by_columns", [False, True], ids=["b", "b.t()"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_products_match_fp64(isa, size, a_by_columns, b_by_columns):
    m, k, n = size
    a = torch.randn(k, m).t() if a_by_columns else torch.randn(m, k)
    b = torch.randn(n, k).t() if b_by_columns else torch.randn(k, n)
    bias = torch.randn(n)
    want = a.double() @ b.double()
    assert_close_to_fp64(matmul(a, b), want)
    assert_close_to_fp64(matmul(a, b, bias), want + bias.double())


@pytest.mark.parametrize("b_by_columns", [False, True], ids=["b", "b.t()"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_scales_multiply_rows_and_columns_of_b(isa, size, b_by_columns):
    m, k, n = size
    a, b = torch.randn(m, k), torch.randn(n, k).t() if b_by_columns else torch.randn(k, n)
    k_scale, n_scale, bias = torch.rand(k), torch.rand(n), torch.randn(n)
    scaled = b.double() * k_scale.double()[:, None]
    assert_close_to_fp64(matmul(a, b, k_scale=k_scale), a.double() @ scaled)
    want = a.double() @ (scaled * n_scale.double()) + bias.double()
    assert_close_to_fp64(matmul(a, b, bias, k_scale=k_scale, n_scale=n_scale), want)
    torch.testing.assert_close(
        matmul(a.double(), b.double(), bias.double(), None, k_scale=k_scale.double(), n_scale=n_scale.double()), want
    )


def test_writes_into_a_part_of_a_larger_matrix(isa):
    a, b = torch.randn(40, 33), torch.randn(33, 50)
    whole = torch.zeros(42, 60)
    out = matmul(a, b, out=whole[1:41, 5:55])
    assert out.data_ptr() == whole[1:, 5:].data_ptr()
    assert_close_to_fp64(whole[1:41, 5:55], a.double() @ b.double())
    whole[1:41, 5:55] = 0
    assert not whole.any()


def test_reads_parts_of_larger_matrices(isa):
    a, b = torch.randn(40, 70)[3:, 9:40], torch.randn(90, 31)[4:66].t()
    assert_close_to_fp64(matmul(a, b), a.double() @ b.double())


@pytest.mark.parametrize(
    "a, b",
    [
        (torch.randn(20, 30, dtype=torch.float64), torch.randn(30, 20, dtype=torch.float64)),
        (torch.randn(20, 60)[:, ::2], torch.randn(30, 20)),
        (torch.randn(1, 30).expand(20, 30), torch.randn(30, 20)),
    ],
    ids=["fp64", "every other column", "one row repeated"],
)
def test_other_operands_are_left_to_pytorch(a, b):
    torch.testing.assert_close(matmul(a, b), a @ b)


def test_result_does_not_depend_on_threads():
    a, b = torch.randn(500, 300), torch.randn(300, 700)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(matmul(a, b))
    torch.set_num_threads(before)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.fixture
def precision():
    """`torch.set_float32_matmul_precision`, for the length of a test."""
    before = torch.get_float32_matmul_precision()
    yield torch.set_float32_matmul_precision
    torch.set_float32_matmul_precision(before)


# in pieces by default; too narrow for that, and too deep
@pytest.mark.parametrize("size", [(33, 70, 200), (50, 70, 90), (20, 2100, 130)], ids=str)
def test_medium_precision_rounds_factors_where_tiles_multiply_them(isa, precision, size):
    m, k, n = size
    a, b, bias = torch.randn(m, k), torch.randn(n, k).t(), torch.randn(n)
    k_scale, n_scale = torch.rand(k), 2.0 ** torch.randint(-3, 3, (n,))
    scaled = b * k_scale[:, None] * n_scale
    exact = a.double() @ scaled.double() + bias.double()
    rounded = a.bfloat16().double() @ scaled.bfloat16().double() + bias.double()
    for name in ("medium", "high", "highest"):
        precision(name)
        got = matmul(a, b, bias, k_scale=k_scale, n_scale=n_scale)
        assert torch.get_float32_matmul_precision() == name
        assert_close_to_fp64(got, rounded if isa == "amx" and name == "medium" else exact, name=name)
    assert relative_error(rounded, exact) > 1e-4


@pytest.mark.parametrize(("backend", "setting"), [("mkldnn", "bf16"), ("cuda", "tf32")], ids=["mkldnn", "cuda"])
def test_settings_of_one_backend_alone(isa, precision, backend, setting):
    """PyTorch then refuses to say what `torch.get_float32_matmul_precision` is. That of this CPU counts."""
    precision("highest")
    getattr(torch.backends, backend).matmul.fp32_precision = setting
    a, b = torch.randn(33, 70), torch.randn(70, 200)
    rounds = isa == "amx" and backend == "mkldnn"
    factors = (a.bfloat16(), b.bfloat16()) if rounds else (a, b)
    assert_close_to_fp64(matmul(a, b), factors[0].double() @ factors[1].double())


def test_pieces_are_for_products_they_make_faster(monkeypatch):
    columns, depth = products.LEAST_COLUMNS_FOR_PIECES, products.DEEPEST_FOR_PIECES
    at_the_edge = [(columns, depth), (columns - 1, depth), (columns, depth + 1)]
    monkeypatch.setattr(products, "has_fast_bf16", lambda: True)
    assert [products._number(n, k) for n, k in at_the_edge] == ["split", "fp32", "fp32"]
    monkeypatch.setattr(products, "has_fast_bf16", lambda: False)
    assert [products._number(n, k) for n, k in at_the_edge] == ["fp32"] * 3


def test_bf16_is_fast_with_tiles_alone(isa, monkeypatch):
    assert has_fast_bf16() == (isa == "amx") == load_native().has_amx()
    monkeypatch.setattr(products, "load_native", lambda: None)
    assert not has_fast_bf16()


@pytest.mark.skipif(load_native() is None, reason=str(why_not_native()))
def test_numbers_that_a_processor_lacks_are_refused(isa):
    a, native = torch.zeros(1), load_native()
    at = a.data_ptr()
    refused = ["int8"] if native.has_bf16() else ["int8", "bf16", "split"]
    for number in refused:
        with pytest.raises(ValueError, match=f"number must be fp32 or, .* bf16 or split, got '{number}'"):
            native.matmul(at, 1, False, at, 1, False, 0, at, 1, 1, 1, 1, 1, number=number)
