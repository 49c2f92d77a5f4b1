"""The persistent encoder's planner: what it lays out, in what order the weights come, what it chooses and refuses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder.fragments import pack_fragments
from tests.kernels.emulated import A100, H200, emulated_encoder, plan_of
from tests.kernels.test_compact_encoder_persistent import MIXED, weights_of


def structure(heads: tuple[int, ...], dims: tuple[int, ...]) -> EncoderLayout:
    kept: dict[str, Any] = {"mha": tuple(h > 0 for h in heads), "ffn": tuple(d > 0 for d in dims)}
    return replace(MIXED, heads=heads, intermediate=dims, head_dim=64, eps=1e-12, **kept)


# heads and intermediate dims of BERT-base pruned to 95, 80 and 60 %
STRUCTURES = {
    "s95": structure((2, 3, 2, 0, 0, 0, 0, 0, 2, 2, 1, 0), (500, 300, 0, 0, 0, 0, 0, 0, 0, 250, 0, 200)),
    "s80": structure(
        (6, 6, 4, 4, 4, 5, 3, 2, 5, 2, 3, 2), (710, 360, 700, 620, 620, 460, 130, 500, 230, 200, 200, 260)
    ),
    "s60": structure(
        (9, 8, 7, 9, 9, 8, 7, 5, 9, 5, 6, 5), (1370, 1050, 1340, 1220, 1290, 1260, 660, 990, 800, 300, 190, 300)
    ),
}
TILES = [(2, 1, 1), (2, 2, 2), (2, 4, 1), (2, 4, 2), (2, 8, 1), (4, 1, 1), (4, 2, 1)]


def plan(
    layout: EncoderLayout, batch: tuple[int, int, int], *, hidden: int = 764, gpu: Any = H200, tile: Any = None
) -> Any:
    return plan_of(emulated_encoder(), layout, hidden, gpu, batch, tile)


def stages(found: Any) -> np.ndarray:
    """Rows of: first block, blocks, blocks of columns, first team, end of teams."""
    words = np.frombuffer(found.stages, np.int32).reshape(-1, 4)
    return np.concatenate((words[:, :3], words[:, 3:] & 0xFFFF, words[:, 3:] >> 16), axis=1)


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("layout", STRUCTURES.values(), ids=STRUCTURES)
def test_regions_follow_one_another_inside_shared_memory(layout, tile):
    found = plan(layout, (4096, 128, 32), tile=tile)
    if found.refusal:
        assert tile[0] == 4 or tile[1] == 8 or tile[2] == 2  # what holds more rows, or keys of more heads, at once
        return
    states, work, ring, sums, ranges, barriers, tiles, end = found.regions
    assert states == 0 and end <= H200[1]
    assert all(a <= b for a, b in pairwise(found.regions))
    assert ring % 128 == 0 and sums % 16 == 0 and barriers % 8 == 0  # bulk copies, vectors of floats, mbarriers
    assert sums - ring == 4 * found.stage_blocks * 512
    assert work - states == found.rows * (768 + 8) * 2


@pytest.mark.parametrize("tile", TILES, ids=str)
@pytest.mark.parametrize("layout", [*STRUCTURES.values(), MIXED], ids=[*STRUCTURES, "mixed"])
def test_stages_hold_every_block_once_and_in_order(layout, tile):
    found = plan(layout, (4096, 128, 32), tile=tile)
    if found.refusal:
        pytest.skip("this tile does not fit")
    table = stages(found)
    assert table[0, 0] == 0 and (table[1:, 0] == table[:-1, 0] + table[:-1, 1]).all()
    assert table[-1, 0] + table[-1, 1] == found.blocks
    assert (table[:, 1] >= 1).all() and (table[:, 1] <= found.stage_blocks).all()
    assert (table[:, 3] < table[:, 4]).all() and table[:, 4].max() == (2 if found.is_wide else 8)


@pytest.mark.parametrize("hidden", [29, 764, 768])
@pytest.mark.parametrize("layout", [*STRUCTURES.values(), MIXED], ids=[*STRUCTURES, "mixed"])
def test_planner_and_packing_count_alike(layout, hidden):
    found = plan(layout, (32, 1, 32), hidden=hidden)
    weights = weights_of(layout, hidden, "cpu", torch.bfloat16)
    packed = pack_fragments(weights, layout, hidden, found.heads, found.is_wide)
    assert tuple(packed.blocks.shape) == (found.blocks, 256)
    assert packed.vectors.numel() == found.vectors and packed.vectors.dtype == torch.float32


def test_packing_order_does_not_change_what_is_packed():
    layout = STRUCTURES["s95"]
    weights = weights_of(layout, 764, "cpu", torch.bfloat16)
    alone, *others = (pack_fragments(weights, layout, 764, *how) for how in ((1, False), (3, False), (1, True)))
    for other in others:
        assert not torch.equal(alone.blocks, other.blocks) and torch.equal(alone.vectors, other.vectors)
        assert torch.equal(alone.blocks.flatten().sort().values, other.blocks.flatten().sort().values)


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_warpgroups_multiply_where_there_are_64_rows_and_wgmma(tile):
    assert plan(MIXED, (64, 2, 32), tile=tile).is_wide == (tile[0] == 4)
    if tile[1] == 1:
        assert not plan(MIXED, (64, 2, 32), gpu=A100, tile=tile).is_wide


# rows of a thread block and thread blocks of a cluster, by the sums of the README
CHOICES = {
    "1 x 128": ((128, 1, 128), 32, 4),
    "32 x 128": ((4096, 32, 128), 32, 4),
    "128 x 128": ((16384, 128, 128), 64, 2),
}


@pytest.mark.parametrize("batch, rows, cluster", CHOICES.values(), ids=CHOICES)
def test_the_tile_predicted_to_be_fastest_is_taken(batch, rows, cluster):
    chosen = plan(STRUCTURES["s95"], batch)
    assert (chosen.rows, chosen.cluster) == (rows, cluster)
    others = [plan(STRUCTURES["s95"], batch, tile=tile) for tile in TILES]
    fitting = [other.predicted_us for other in others if not other.refusal]
    assert len(fitting) >= 3 and chosen.predicted_us <= min(fitting)


def test_more_clusters_than_tiles_are_not_launched():
    assert plan(STRUCTURES["s95"], (128, 1, 128)).clusters <= 3
    found = plan(STRUCTURES["s95"], (1 << 20, 8192, 128))
    assert found.clusters == H200[0] // found.cluster


# An H100 as it was seen: groups of 16 and 18 multiprocessors hold 15 clusters of 8, not 132 / 8.
FEWER = (*H200, 132, 66, 32, 15)


@pytest.mark.parametrize(
    "tile, resident", [((2, 1, 1), 132), ((2, 2, 1), 66), ((2, 4, 1), 32), ((2, 8, 1), 15)], ids=str
)
def test_no_cluster_waits_for_the_end_of_another(tile, resident):
    found = plan(STRUCTURES["s95"], (1 << 18, 1 << 13, 32), gpu=FEWER, tile=tile)
    assert found.refusal == "" and found.clusters == resident


def test_prediction_counts_rounds_of_the_clusters_that_run_at_once():
    """16 tiles for 16 clusters of 8 are one round, for 15 two."""
    batch, tile = (4096, 16, 256), (2, 8, 1)
    all_at_once, fewer = (plan(STRUCTURES["s95"], batch, gpu=gpu, tile=tile) for gpu in (H200, FEWER))
    assert (all_at_once.clusters, fewer.clusters) == (16, 15)
    assert 1.9 < fewer.predicted_us / all_at_once.predicted_us < 2


def test_choice_of_the_tile_counts_them_too():
    """33 sequences of 128 are one round of 33 clusters of 4. Of 32 they are two, which clusters of 2 spare."""
    batch = (33 * 128, 33, 128)
    chosen, fewer = (plan(STRUCTURES["s95"], batch, gpu=gpu) for gpu in (H200, FEWER))
    assert (chosen.rows, chosen.cluster, chosen.clusters) == (32, 4, 33)
    assert (fewer.rows, fewer.cluster, fewer.clusters) == (64, 2, 66)


def test_size_of_cluster_that_the_gpu_cannot_place_is_not_taken():
    none_of_8 = (*H200, 7, 3, 1, 0)
    assert plan(STRUCTURES["s95"], (4096, 16, 256), gpu=none_of_8, tile=(2, 8, 1)).refusal != ""
    assert plan(STRUCTURES["s95"], (4096, 16, 256), gpu=none_of_8).cluster == 4


def test_gpu_is_described_by_3_or_7_numbers():
    with pytest.raises(ValueError, match="gpu must hold 3 or 7 numbers, got 4"):
        plan(MIXED, (4, 1, 4), gpu=FEWER[:4])


def test_gpu_without_clusters_takes_short_sequences_alone():
    assert plan(STRUCTURES["s95"], (4096, 128, 32), gpu=A100).cluster == 1
    refusal = plan(STRUCTURES["s95"], (4096, 32, 128), gpu=A100).refusal
    assert (
        refusal
        == "no tile of whole sequences of up to 128 tokens fits into 166912 bytes of shared memory of 1 thread blocks"
    )


def test_more_sequences_than_can_be_cut_into_tiles_are_refused():
    assert plan(MIXED, (29_056, 29_056, 1)).refusal == ""
    assert plan(MIXED, (29_057, 29_057, 1)).refusal == "takes at most 29056 sequences, the batch has 29057"


DENSE = {"intermediate": (3072,), "heads": (12,), "mha": (True,), "ffn": (True,), "head_dim": 64}
TOO_WIDE = {
    "head": ({"head_dim": 65}, 764, "takes at most 64 dims a head, the model has 65"),
    "hidden": ({}, 769, "takes at most 768 hidden dims, the model has 769"),
    "dense": (DENSE, 768, "no tile of whole sequences of up to 32 tokens fits"),
}


@pytest.mark.parametrize("change, hidden, refusal", TOO_WIDE.values(), ids=TOO_WIDE)
def test_models_that_are_too_wide_are_refused(change, hidden, refusal):
    assert refusal in plan(replace(MIXED, **change), (128, 4, 32), hidden=hidden).refusal


@pytest.mark.parametrize("layout", STRUCTURES.values(), ids=STRUCTURES)
def test_batches_of_all_sizes_share_a_few_tables(layout):
    """They stay on the device for good."""
    sizes = [(n, length) for n in (1, 3, 16, 33, 200, 1024, 8192, 29_000) for length in (1, 16, 39, 64, 128, 256)]
    plans = [plan(layout, (n * length, n, length)) for n, length in sizes]
    tables = {table for found in plans if not found.refusal for table in (found.stages, found.sublayers)}
    assert len(tables) <= 9 and sum(map(len, tables)) < 1_000_000
