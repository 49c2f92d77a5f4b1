"""Which launches the encoder takes on a GPU for a number of rows, and that their parts cover the work."""

from __future__ import annotations

import math

import pytest

from cofi_kernels.compact_encoder import plans
from cofi_kernels.compact_encoder.plans import plan_attention, plan_ffn

SM = 132


def test_few_rows_split_the_dims_and_many_rows_use_plain_products():
    assert [plan_ffn(rows, 512, 768, SM).mode for rows in (128, 1024, 16384)] == ["part", "linear", "linear"]
    assert plan_ffn(1024, 128, 768, SM).mode == "whole"  # 0.4 MB of weights a program: no second launch pays
    assert [plan_attention(rows, rows // 128, 12, 64, 768, SM).mode for rows in (128, 16384)] == ["part", "context"]
    assert plan_attention(128, 1, 2, 64, 768, SM).mode == "whole"


@pytest.mark.parametrize("n_dims", [64, 128, 192, 448, 512, 3072])
@pytest.mark.parametrize("n_rows", [1, 16, 129, 4000])
def test_parts_of_the_dims_are_whole_blocks(n_rows, n_dims):
    plan = plan_ffn(n_rows, n_dims, 768, SM)
    assert n_dims % plan.parts == 0 and (n_dims // plan.parts) % plan.tile.dims == 0
    assert (plan.mode == "part") == (plan.parts > 1)


@pytest.mark.parametrize("n_heads", [1, 2, 5, 12, 16])
@pytest.mark.parametrize("n_rows, n_sequences", [(1, 1), (128, 1), (40, 2), (16384, 128), (5, 64)])
def test_parts_of_the_heads_hold_each_once(n_rows, n_sequences, n_heads):
    plan = plan_attention(n_rows, n_sequences, n_heads, 64, 768, SM)
    assert 1 <= plan.heads_per_part <= n_heads
    n_parts = math.ceil(n_heads / plan.heads_per_part)
    assert (n_parts == 1) if plan.mode == "whole" else (n_parts > 1 or plan.mode == "context")


@pytest.mark.parametrize("depth, block", [(64, 64), (768, 64), (96, 32), (48, 16)])
def test_depth_of_a_tile_divides_the_product(depth, block):
    assert plans.depth_of(plans.LINEAR_TILES[0], depth) == block
