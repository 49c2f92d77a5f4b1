"""The encoder's Triton kernels compiled for each architecture.

Widths are run-time values but for the hidden size: 760, 764 and 768 dims are six pieces, one binary serves them all.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cofi_kernels.compact_encoder import plans
from cofi_kernels.compact_encoder.costs import FfnTile, LinearTile
from tests.kernels import aot

pytest.importorskip("triton")

MODULE = "cofi_kernels.compact_encoder.sublayer_kernels:"
ROW = {"PIECE": 128, "N_PIECES": 6}  # 764 and 768 hidden dims
WIDE_ROW, SMALL_ROW, MINILM_ROW = ({"PIECE": 128, "N_PIECES": n} for n in (8, 4, 3))
NORM = {"hidden": "i32", "eps": "fp32", "out_stride": "i32"}


def pointers(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "*bf16")


def launch(warps: int, stages: int) -> dict[str, int]:
    return {"num_warps": warps, "num_stages": stages}


def linear(tile: LinearTile, *, up: bool) -> aot.Case:
    """The up-projection with GELU, or the down-projection."""
    arguments = {
        **pointers("x_ptr w_ptr"),
        "b_ptr": "*bf16" if up else None,
        **{"out_ptr": "*bf16", "n_rows": "i32", "n_columns": "i32", "depth": "i32", "ACTIVATION": None},
        **{"TRANSPOSED": up, "BLOCK_M": tile.rows, "BLOCK_N": tile.columns, "BLOCK_K": tile.depth, "DEPENDENT": False},
    }
    strings = {"ACTIVATION": "gelu"} if up else {}
    options = launch(tile.warps, tile.stages)
    return aot.Case(MODULE + "linear_kernel", arguments, options, strings, multiples=("n_columns", "depth"))


def attention(mode: str, row: dict[str, int], head_dim: int = 64) -> aot.Case:
    is_context = mode == "context"
    arguments = {
        **{"qkv_ptr": "*bf16", "cu_seqlens_ptr": "*i32"},
        **pointers("x_ptr w_ptr b_ptr norm_ptr out_ptr"),
        "part_ptr": "*bf16" if is_context else "*fp32",
        **{
            "n_tokens": "i32",
            "n_heads": "i32",
            "heads_per_part": "i32",
            **NORM,
            "scale": "fp32",
            "MODE": None,
            "D": head_dim,
        },
        **row,
        **{"BLOCK_M": plans.CONTEXT_ROWS if is_context else plans.ATTENTION_ROWS, "BLOCK_N": plans.ATTENTION_KEYS},
        "DEPENDENT": False,
    }
    warps = plans.CONTEXT_WARPS if is_context else plans.ATTENTION_WARPS
    stages = plans.attention_stages(mode, row["PIECE"] * row["N_PIECES"])
    return aot.Case(MODULE + "attention_kernel", arguments, launch(warps, stages), {"MODE": mode})


def ffn(tile: FfnTile, row: dict[str, int], *, split: bool) -> aot.Case:
    arguments = {
        **pointers("x_ptr w_up_ptr b_up_ptr w_down_ptr b_down_ptr norm_ptr out_ptr"),
        **{"part_ptr": "*fp32", "n_rows": "i32", "n_int": "i32", **NORM, "ACTIVATION": None, **row},
        **{"BLOCK_M": tile.rows, "BLOCK_I": tile.dims, "SPLIT": split, "DEPENDENT": False},
    }
    options = launch(tile.warps, tile.stages)
    return aot.Case(MODULE + "ffn_kernel", arguments, options, {"ACTIVATION": "gelu"})


def finish(rows: int) -> aot.Case:
    arguments = {
        **{"part_ptr": "*fp32", **pointers("x_ptr b_ptr norm_ptr out_ptr"), "n_rows": "i32", "n_parts": "i32"},
        **{**NORM, **WIDE_ROW, "BLOCK_M": rows, "DEPENDENT": False},
    }
    return aot.Case(MODULE + "finish_kernel", arguments, launch(4, 3))


def pad() -> aot.Case:
    arguments = {"x_ptr": "*bf16", "out_ptr": "*bf16", "n_rows": "i32", "hidden": 764, "WIDTH": 768}
    return aot.Case(MODULE + "pad_kernel", {**arguments, "BLOCK_M": plans.PAD_ROWS, "DEPENDENT": False}, launch(4, 3))


def dependent(case: aot.Case) -> aot.Case:
    """Launched before the kernel in front of it has ended."""
    arguments = {**case.arguments, "DEPENDENT": True}
    return replace(case, arguments=arguments, architectures=aot.DEPENDENT_ARCHITECTURES)


CASES = [
    *(linear(tile, up=True) for tile in plans.LINEAR_TILES),
    *(linear(plans.LINEAR_TILES[i], up=False) for i in (0, -1)),
    *(attention(mode, row) for mode in ("whole", "part") for row in (ROW, WIDE_ROW)),
    *(attention(mode, MINILM_ROW, 32) for mode in ("whole", "part")),
    attention("whole", SMALL_ROW),
    attention("context", ROW),
    *(ffn(tile, ROW, split=split) for tile in plans.FFN_TILES for split in (False, True)),
    *(ffn(tile, WIDE_ROW, split=split) for tile in plans.WIDE_FFN_TILES for split in (False, True)),
    finish(4),
    pad(),
]
FIRST_FFN = ffn(plans.FFN_TILES[0], ROW, split=False)
CASES += [dependent(case) for case in (attention("whole", ROW), FIRST_FFN, finish(1), pad())]
CASES += [dependent(linear(plans.LINEAR_TILES[-1], up=True))]


def test_every_tile_compiles_for_every_architecture_without_spills():
    for report in aot.compile_cases(CASES):
        aot.assert_fits(report)
