"""What a layer of masked_ffn launches on a GPU, compiled for each architecture: registers, spills, shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernels import aot

pytest.importorskip("triton")
from cofi_kernels.unit_products import folding, sums, tiling  # noqa: E402

FFN = "cofi_kernels.masked_ffn.triton_kernels:_masked_ffn_"
PRODUCTS = "cofi_kernels.unit_products."
LAYERS = {"BERT-base": (768, 3072), "MiniLM": (384, 1536), "BERT-large": (1024, 4096)}  # E, I
TILES = {(80,): tiling._HALF_SM80, (90, 100): tiling._HALF}
SHARED = {"parts_ptr": "*fp32", "counters_ptr": "*i32", "count_ptr": "*i32"}
Z = {"z_unit_ptr": "*fp32", "z_layer_ptr": "*fp32", "z_hidden_ptr": "*fp32"}
HAS_Z = {"HAS_UNIT": True, "HAS_LAYER": True, "HAS_HIDDEN": True}


def products(
    tiles: tiling.Tiles, half: str, n_hidden: int, n_int: int, architectures: tuple[int, ...]
) -> Iterator[aot.Case]:
    """The products of a layer: activations of type `half`, fp32 masters, all masks."""
    blocks = {"BLOCK_M": tiles.m, "BLOCK_N": tiles.n, "BLOCK_K": tiles.k}
    options = {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages}
    strings = {"PRECISION": "ieee" if half == "fp32" else "tf32"}
    act, sizes = f"*{half}", {"E": n_hidden, "COLUMNS": n_int}

    def case(kernel: str, arguments: dict[str, Any], **more: str) -> aot.Case:
        return aot.Case(kernel, {**arguments, **blocks}, options, {**more, **strings}, architectures=architectures)

    tail = {**SHARED, "n_tokens": "i32"}
    up = {"x_ptr": act, "w_ptr": act, "b_ptr": "*fp32", "h_ptr": act, "derivative_ptr": act}
    yield case(FFN + "fwd_kernel_up", {**up, **tail, **sizes}, ACTIVATION="gelu")
    du = {"dy_ptr": act, "w_ptr": act, "derivative_ptr": act, "du_ptr": act, "blocks_ptr": "*fp32"}
    yield case(FFN + "bwd_kernel_du", {**du, **tail, **sizes})
    out = {"c_ptr": act, "w_ptr": act, "b_ptr": "*fp32", "y_ptr": act, **tail, "E": n_hidden, "R": 1}
    out |= {"COLUMNS": n_int, "HAS_BIAS": True}
    yield case(PRODUCTS + "products:_project_out_kernel", out)
    dw = {"d_in_ptr": act, "x_ptr": act, "dw_in_ptr": "*fp32", "c_ptr": act, "dy_ptr": act, "dw_out_ptr": "*fp32"}
    dw |= {"w_out_ptr": "*fp32", **Z, "row_sums_ptr": "*fp32", "column_sums_ptr": "*fp32", **SHARED}
    dw |= {"live_ptr": "*i32", "n_tokens": "i32", "n_units": "i32", "E": n_hidden, "R": 1, "D": 1}
    dw |= {"COLUMNS_IN": n_int, "COLUMNS_OUT": n_int, "WITH_SUMS": True, **HAS_Z}
    yield case(PRODUCTS + "gradients:_weight_gradients_kernel", {**dw, "ZERO_ROWS": 16, "ZERO_COLUMNS": 256})


def passes(n_hidden: int, n_int: int) -> Iterator[aot.Case]:
    """What is launched beside the products."""
    fold = {"w_in_ptr": "*fp32", "b_in_ptr": "*fp32", "w_out_ptr": "*fp32", "b_out_ptr": "*fp32", **Z}
    fold |= {"to_w_in_ptr": "*bf16", "to_b_in_ptr": "*fp32", "to_w_out_ptr": "*bf16", "to_b_out_ptr": "*fp32"}
    lists = {"live_ptr": "*i32", "count_ptr": "*i32", "counters_ptr": "*i32", "n_rows": "i32"}
    block = {"ROWS": folding._ROWS, "COLUMNS": folding._COLUMNS, "SCAN": folding._SCAN}
    groups = {"E": n_hidden, "D": 1, "GROUPS": 1, **HAS_Z}
    yield aot.Case(PRODUCTS + "folding:_fold_kernel", {**fold, **lists, **groups, **block})
    steps = {"STEP": sums._STEP, "COLUMNS": sums._COLUMNS}
    dy = {"x_ptr": "*bf16", "sums_ptr": "*fp32", "count_ptr": None, "n_tokens": "i32", "n_columns": "i32"}
    dy |= {"R": 0, "STRIDE": n_hidden, "TOKENS": sums.TOKENS, **steps}
    yield aot.Case(PRODUCTS + "sums:_column_blocks_kernel", dy)
    names = ("bias_blocks", "row_blocks", "db_in", "dz_unit", "dy_blocks", "column_blocks")
    names += ("b_out", "db_out", "dz_layer", "dz_hidden")
    counts = ("n_bias_blocks", "n_row_blocks", "n_token_blocks", "n_units")
    finish = {f"{name}_ptr": "*fp32" for name in names} | Z | {"count_ptr": "*i32", "live_ptr": "*i32"}
    finish |= dict.fromkeys(counts, "i32") | {"E": n_hidden, "R": 1, "D": 1, "STRIDE": n_int, **HAS_Z}
    yield aot.Case(PRODUCTS + "sums:_finish_kernel", {**finish, "HAS_ROWS": True, "BLOCK_M": 128, **steps})


def cases() -> Iterator[aot.Case]:
    """BERT-base for every architecture; the other sizes for one, as only constants differ; fp32 for one."""
    for architectures, tiles in TILES.items():
        yield from products(tiles, "bf16", *LAYERS["BERT-base"], architectures)
    yield from passes(*LAYERS["BERT-base"])
    for name in ("MiniLM", "BERT-large"):
        yield from products(tiling._HALF, "bf16", *LAYERS[name], (90,))
    yield from products(tiling._SINGLE, "fp32", *LAYERS["MiniLM"], (90,))


def test_every_kernel_compiles_for_every_architecture_without_spills():
    for report in aot.compile_cases(list(cases())):
        aot.assert_fits(report)
