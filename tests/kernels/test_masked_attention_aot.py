"""The attention kernels compiled for each architecture, with the tiles that flash_tiles names for BERT and MiniLM."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cofi_kernels.masked_attention.flash_tiles import Tile, forward_tile, keys_tile, queries_tile
from tests.kernels import aot

pytest.importorskip("triton")
MODULE = "cofi_kernels.masked_attention."
LISTS = {"heads_ptr": "*i32", "n_live_ptr": "*i32", "cu_seqlens_ptr": "*i32"}
NUMBERS = dict.fromkeys(("n_tokens", "n_sequences", "n_heads", "max_seqlen", "threshold"), "i32")


def case(kernel: str, head_dim: int, tile: Tile, aligned: bool = True, **flags: bool) -> aot.Case:
    state = {"state_ptr": "*i64"}
    sizes = {"D": head_dim, "BLOCK_M": tile.queries, "BLOCK_N": tile.keys, "ALIGNED": aligned, **flags}
    arguments: dict[str, Any]
    if kernel == "_attention_fwd_kernel":
        module, made = "flash_forward:", {"context_ptr": "*bf16", "lse_ptr": "*fp32"}
        scales = {"keep_scale": "fp32", "score_scale": "fp32"}
        arguments = {"qkv_ptr": "*bf16", **LISTS, **state, **made, **NUMBERS, **scales, **sizes}
    else:
        module, made = "flash_backward:", {"dqkv_ptr": "*bf16", "sums_ptr": "*fp32"}
        given = {"qkv_ptr": "*bf16", "context_ptr": "*bf16", "dc_ptr": "*bf16", "lse_ptr": "*fp32"}
        if kernel == "_attention_bwd_kernel":
            made["bias_sums_ptr"] = "*fp32"
        scales = {"keep_scale": "fp32", "sm_scale": "fp32"}
        arguments = {**given, **LISTS, **state, **made, **NUMBERS, **scales, **sizes}
    return aot.Case(MODULE + module + kernel, arguments, {"num_warps": tile.warps, "num_stages": tile.stages})


def cases_of(head_dim: int, lengths: tuple[int, ...], aligned: bool = True) -> list[aot.Case]:
    """Forward, and backward for sequences of at most each of `lengths`."""
    dtype = torch.bfloat16
    cases = [
        case("_attention_fwd_kernel", head_dim, forward_tile(head_dim, dtype, aligned), aligned),
        case("_attention_bwd_dq_kernel", head_dim, queries_tile(head_dim, dtype, aligned), aligned),
    ]
    for longest in lengths:
        tile, whole = keys_tile(head_dim, dtype, aligned, longest)
        cases.append(case("_attention_bwd_kernel", head_dim, tile, aligned, WHOLE=whole))
    return cases


def sums_case() -> aot.Case:
    given = {"sums_ptr": "*fp32", "heads_ptr": "*i32", "n_live_ptr": "*i32", "z_head_ptr": "*fp32"}
    sizes = {"n_sums": "i32", "n_heads": "i32", "ROWS": 256, "HEADS": 16}
    arguments = {**given, "dz_head_ptr": "*fp32", **sizes}
    return aot.Case(MODULE + "flash_backward:_head_gradients_kernel", arguments, {"num_warps": 4})


def test_kernels_of_bert_and_minilm_compile_for_every_architecture_without_spills():
    """BERT-base and BERT-large have heads of 64 dims, MiniLM of 32; the number of heads is no constant of a kernel."""
    for report in aot.compile_cases([*cases_of(64, (64, 128, 512)), *cases_of(32, (128,)), sums_case()]):
        aot.assert_fits(report)
