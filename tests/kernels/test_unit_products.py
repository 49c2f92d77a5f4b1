"""Products over live units in Triton: in the interpreter (or on a GPU) against fp64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cofi_kernels.masking import times
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager
from cofi_kernels.unit_products.padding import padded
from tests.kernels.oracle import CORNERS, corner

pytest.importorskip("triton")
from cofi_kernels.unit_products import folding, gradients, products, sums, tiling  # noqa: E402
from cofi_kernels.unit_products.folding import Folded, Masks  # noqa: E402


class Layer(NamedTuple):
    """A sublayer of G groups of N units of D rows, E hidden, T tokens; its live rows in each group."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor
    masks: Masks
    rows: Tensor  # of live units, in (N D,)

    @property
    def rows_in(self) -> Tensor:
        """The rows in (G N D,)."""
        groups, n_rows, _ = self.w_in.shape
        return (torch.arange(groups, device=self.rows.device)[:, None] * n_rows + self.rows).flatten()


def layer_of(masks: str, groups: int, n_units: int, unit_rows: int, n_hidden: int, device: str) -> Layer:
    n_rows = n_units * unit_rows
    z = Masks(*corner(masks, n_units, n_hidden, device))
    live = torch.ones(n_units, dtype=torch.bool, device=device) if z.unit is None else z.unit != 0
    if z.layer is not None and z.layer == 0:
        live = live & False
    rows = live.repeat_interleave(unit_rows).nonzero()[:, 0]
    shapes = ((groups, n_rows, n_hidden), (groups, n_rows), (n_rows, n_hidden), (n_hidden,))
    return Layer(*(torch.randn(shape, device=device) for shape in shapes), z, rows)


def folded(layer: Layer, dtype: torch.dtype, n_units: int) -> tuple[Folded, tiling.Work]:
    groups, n_rows, n_hidden = layer.w_in.shape
    work = tiling.new_work(layer.w_in.new_empty(1, dtype=dtype), n_units)
    w_in, w_out = (layer.w_in.new_empty(padded(n), n_hidden, dtype=dtype) for n in (groups * n_rows, n_rows))
    b_in, b_out = (layer.b_in.new_empty(n, dtype=torch.float32) for n in (len(w_in), n_hidden))
    out = Folded(w_in, b_in, w_out, b_out)
    folding.fold(layer.w_in, layer.b_in, layer.w_out, layer.b_out, layer.masks, work, out)
    return out, work


# groups, units, rows of a unit, hidden: an FFN, attention, one unit, no unit
SIZES = [(1, 97, 1, 31), (3, 5, 8, 40), (1, 1, 1, 7), (1, 0, 1, 24)]
FOLDED = [*((size, torch.float32) for size in SIZES), (SIZES[1], torch.float16)]


@pytest.mark.parametrize("masks", CORNERS)
@pytest.mark.parametrize("size, dtype", FOLDED, ids=str)
def test_folding_copies_live_rows_together_and_pads_with_zeros(device, size, dtype, masks):
    groups, n_units, unit_rows, n_hidden = size
    layer = layer_of(masks, *size, device)
    out, work = folded(layer, dtype, n_units)
    n_live = len(layer.rows) // unit_rows
    assert work.n_live.item() == n_live and not work.counters.any()
    assert torch.equal(work.live[:n_live], (layer.rows[::unit_rows] // unit_rows).int())
    z_rows = None if layer.masks.unit is None else layer.masks.unit.repeat_interleave(unit_rows)[layer.rows]
    w_out = times(layer.w_out[layer.rows], None if z_rows is None else z_rows[:, None], *layer.masks[1:])
    wanted = {
        "w_in": layer.w_in.flatten(0, 1)[layer.rows_in],
        "b_in": layer.b_in.flatten()[layer.rows_in],
        "w_out": w_out,
    }
    for name, want in wanted.items():
        got = getattr(out, name)
        n_padded = padded(len(want))
        # half a step of fp16, and the smallest number it has; fp32 is multiplied twice
        rtol, atol = (2.0**-11, 2.0**-24) if got.dtype == torch.float16 else (1e-6, 0.0)
        torch.testing.assert_close(got[: len(want)].float(), want, rtol=rtol, atol=atol)
        assert not got[len(want) : n_padded].any() and got[n_padded:].isnan().all()  # torch.empty gives NaN in tests
    torch.testing.assert_close(out.b_out, times(layer.b_out, *layer.masks[1:]), rtol=1e-6, atol=0.0)


FP32_CASES = {
    "ffn": ("all kinds", (1, 97, 1, 31), 70),
    "attention": ("all kinds", (3, 7, 8, 40), 37),
    "no mask": ("no mask", (1, 40, 1, 64), 64),
    "one token": ("all kinds", (1, 40, 1, 24), 1),
    "no token": ("all kinds", (1, 40, 1, 24), 0),
    "one unit": ("one unit", (1, 97, 1, 31), 300),
    "no unit": ("no unit", (3, 5, 8, 24), 5),
    "dead layer": ("dead layer", (1, 97, 1, 31), 5),
}
FP16 = ("ffn", "attention", "one unit", "no unit", "dead layer")
CASES = {name: (*case, torch.float32) for name, case in FP32_CASES.items()}
CASES |= {f"{name} in fp16": (*FP32_CASES[name], torch.float16) for name in FP16}


def assert_rounded(got: Tensor, want64: Tensor, *, name: str) -> None:
    """In fp16 as far off as the exact result, rounded, may be; what is multiplied was of that precision already."""
    if got.dtype == torch.float32:
        assert_close_to_fp64(got, want64, name=name)
    else:
        assert_no_worse_than_eager(got, want64.to(got.dtype), want64, name=name)


@pytest.mark.parametrize("masks, size, n_tokens, dtype", CASES.values(), ids=CASES)
def test_products_match_fp64(device, masks, size, n_tokens, dtype):
    groups, n_units, unit_rows, n_hidden = size
    layer = layer_of(masks, *size, device)
    weights, work = folded(layer, dtype, n_units)
    n_live, all_rows = len(layer.rows), groups * n_units * unit_rows
    x = torch.randn(n_tokens, n_hidden, device=device).to(dtype)
    y = torch.full((n_tokens, padded(all_rows)), float("nan"), device=device, dtype=dtype)
    products.project_in(x, weights.w_in, weights.b_in, y, groups * unit_rows, work)
    n_in = groups * n_live
    want = x.double() @ weights.w_in[:n_in].double().t() + weights.b_in[:n_in]
    assert_rounded(y[:, :n_in], want, name="project_in")
    assert not y[:, n_in : padded(n_in)].any() and y[:, padded(n_in) :].isnan().all()

    c = units_of(n_tokens, n_units * unit_rows, n_live, dtype, device)
    out = torch.full_like(x, float("nan"))
    products.project_out(c, weights.w_out, weights.b_out, out, unit_rows, work)
    want = c[:, :n_live].double() @ weights.w_out[:n_live].double() + weights.b_out
    assert_rounded(out, want, name="project_out")

    assert not work.counters.any()


def units_of(n_tokens: int, n_rows: int, n_live: int, dtype: torch.dtype, device: str) -> Tensor:
    """Activations or gradients of units: the live ones at the front of a row, what no kernel may read behind them."""
    units = torch.full((n_tokens, padded(n_rows)), float("nan"), device=device, dtype=dtype)
    units[:, : padded(n_live)] = torch.randn(n_tokens, padded(n_live), device=device).to(dtype)
    return units


@pytest.mark.parametrize("masks, size, n_tokens, dtype", CASES.values(), ids=CASES)
def test_gradients_match_fp64(device, masks, size, n_tokens, dtype):
    """Of fp32 masters, so that sums of fp16 numbers have the digits of fp32."""
    groups, n_units, unit_rows, n_hidden = size
    layer = layer_of(masks, *size, device)
    _, work = folded(layer, dtype, n_units)
    n_live, n_rows = len(layer.rows), n_units * unit_rows
    c = units_of(n_tokens, n_rows, n_live, dtype, device)
    d_in = units_of(n_tokens, groups * n_rows, groups * n_live, dtype, device)
    x, dy = (torch.randn(2, n_tokens, n_hidden, device=device) + 1.0).to(dtype)
    dw_in, dw = torch.full_like(layer.w_in, float("nan")), torch.full_like(layer.w_out, float("nan"))
    to_in, to_out = gradients.Product(d_in, x, dw_in), gradients.Product(c, dy, dw[None])
    projection = gradients.weight_gradients(to_in, to_out, layer.w_out, layer.masks, work)
    assert not work.counters.any()
    db_in = sums.column_blocks(d_in, groups * unit_rows, work)
    z = layer.masks
    to = sums.new_finished(layer.b_in, layer.b_out, z, with_units=groups * unit_rows == 1)
    sums.finish(sums.Sums(db_in, sums.column_blocks(dy), projection), layer.b_out, z, groups * unit_rows, work, to)

    ones = torch.ones((), dtype=torch.float64, device=device)
    layer_z, hidden_z = (ones if t is None else t.double() for t in z[1:])
    z_rows = torch.ones(n_live, device=device) if z.unit is None else z.unit.repeat_interleave(unit_rows)[layer.rows]
    unscaled = c[:, :n_live].double().t() @ dy.double()
    scaled = torch.zeros_like(layer.w_out, dtype=torch.float64)
    scaled[layer.rows] = unscaled * z_rows[:, None].double() * layer_z * hidden_z
    assert_close_to_fp64(dw, scaled, name="dw")
    product = unscaled * layer.w_out[layer.rows].double()
    dy_y = z_rows.double() @ product + layer.b_out.double() * dy.double().sum(0)
    assert_close_to_fp64(to.db_out, dy.double().sum(0) * layer_z * hidden_z, name="db_out")
    want = torch.zeros(groups * n_rows, n_hidden, dtype=torch.float64, device=device)
    want[layer.rows_in] = d_in[:, : groups * n_live].double().t() @ x.double()
    assert_close_to_fp64(dw_in.flatten(0, 1), want, name="dw_in")
    want = torch.zeros(groups * n_rows, dtype=torch.float64, device=device)
    want[layer.rows_in] = d_in[:, : groups * n_live].double().sum(0)
    assert_close_to_fp64(to.db_in.flatten(), want, name="db_in")
    if to.dz_unit is not None:
        want = torch.zeros(n_units, dtype=torch.float64, device=device)
        want[layer.rows] = (product * hidden_z * layer_z).sum(1)
        assert_close_to_fp64(to.dz_unit, want, name="dz_unit")
    if z.layer is not None:
        assert_close_to_fp64(to.dz_layer, torch.where(layer_z == 0, 0.0, (dy_y * hidden_z).sum()), name="dz_layer")
    if z.hidden is not None:
        assert_close_to_fp64(to.dz_hidden, torch.where(hidden_z == 0, 0.0, dy_y * layer_z), name="dz_hidden")


@pytest.mark.parametrize("n_tokens, is_cut", [(300, True), (16, False)], ids=["long sum", "short sum"])
def test_a_long_sum_over_few_tiles_is_cut_into_parts(device, n_tokens, is_cut):
    """Parts are added in their order: the result repeats bit for bit, and the counters are 0 again."""
    layer = layer_of("one unit", 1, 97, 1, 31, device)
    _, work = folded(layer, torch.float32, 97)
    d_in, c = torch.randn(2, n_tokens, padded(97), device=device)
    x, dy = torch.randn(2, n_tokens, 31, device=device)
    runs = []
    for _ in range(2):
        dw_in, dw_out = torch.full_like(layer.w_in, float("nan")), torch.full_like(layer.w_out, float("nan"))
        to_in, to_out = gradients.Product(d_in, x, dw_in), gradients.Product(c, dy, dw_out[None])
        gradients.weight_gradients(to_in, to_out, layer.w_out, layer.masks, work)
        runs.append((dw_in, dw_out))
    assert work.parts.isfinite().any() == is_cut  # torch.empty gives NaN in tests
    assert not work.counters.any()
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
