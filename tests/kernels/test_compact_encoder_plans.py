"""Which launches the encoder takes on a GPU for a number of rows, and that their parts cover the work."""

from __future__ import annotations

import math

import pytest

from cofi_kernels.compact_encoder import plans
from cofi_kernels.compact_encoder.costs import Gpu, Rows
from cofi_kernels.compact_encoder.plans import AttentionSize, FfnSize

GPU = Gpu(132)


def plan_ffn(n_rows: int, n_dims: int) -> plans.FfnPlan:
    return plans.plan_ffn(Rows(n_rows, 1), FfnSize(n_dims, 768), GPU)


def plan_attention(n_rows: int, n_sequences: int, n_heads: int) -> plans.AttentionPlan:
    return plans.plan_attention(Rows(n_rows, n_sequences), AttentionSize(n_heads, 64, 768), GPU)


def test_few_rows_split_the_dims_and_many_rows_use_plain_products():
    assert [plan_ffn(rows, 512).mode for rows in (128, 1024, 16384)] == ["part", "linear", "linear"]
    assert plan_ffn(1024, 128).mode == "whole"  # 0.4 MB of weights a program: no second launch pays
    assert [plan_attention(rows, rows // 128, 12).mode for rows in (128, 16384)] == ["part", "context"]
    assert plan_attention(128, 1, 2).mode == "whole"


@pytest.mark.parametrize("n_dims", [64, 128, 192, 448, 512, 3072])
@pytest.mark.parametrize("n_rows", [1, 16, 129, 4000])
def test_parts_of_the_dims_are_whole_blocks(n_rows, n_dims):
    plan = plan_ffn(n_rows, n_dims)
    assert n_dims % plan.parts == 0 and (n_dims // plan.parts) % plan.tile.dims == 0
    assert (plan.mode == "part") == (plan.parts > 1)


@pytest.mark.parametrize("n_heads", [1, 2, 5, 12, 16])
@pytest.mark.parametrize("n_rows, n_sequences", [(1, 1), (128, 1), (40, 2), (16384, 128), (5, 64)])
def test_parts_of_the_heads_hold_each_once(n_rows, n_sequences, n_heads):
    plan = plan_attention(n_rows, n_sequences, n_heads)
    assert 1 <= plan.heads_per_part <= n_heads
    n_parts = math.ceil(n_heads / plan.heads_per_part)
    assert (n_parts == 1) if plan.mode == "whole" else (n_parts > 1 or plan.mode == "context")


def test_the_work_of_a_sublayer_is_that_of_its_products_however_it_is_launched():
    at, attention, ffn = Rows(256, 2), AttentionSize(3, 64, 768), FfnSize(512, 768)
    products = 2 * 256 * 768 * 192 * 4 + 4 * 256 * 128 * 192
    for plan in plans.attention_candidates(at, attention, GPU):
        assert sum(launch.flops for launch in plans.attention_launches(plan, at, attention, GPU)) == products
    for plan in plans.ffn_candidates(at, ffn, GPU):
        launches = plans.ffn_launches(plan, at, ffn, GPU)
        assert sum(launch.flops for launch in launches) == 4 * 256 * 768 * 512
        assert sum(launch.n_bytes for launch in launches) >= 2 * (2 * 768 * 512 + 2 * 256 * 768)


@pytest.mark.parametrize("depth, block", [(64, 64), (768, 128), (192, 64), (96, 32), (48, 16)])
def test_depth_of_a_tile_divides_the_product(depth, block):
    assert plans.depth_of(plans.LINEAR_TILES[0], depth) == block
