"""The persistent encoder: on a GPU the kernel, elsewhere its own code on an emulated one, against fp64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import EncoderLayout, native
from cofi_kernels.compact_encoder import cuda
from cofi_kernels.compact_encoder.fragments import pack_fragments, to_core_matrices, to_lanes
from cofi_kernels.testing import assert_no_worse_than_eager
from tests.kernels.emulated import A100, H200, emulated_encoder, plan_of
from tests.kernels.encoders import HIDDEN, MIXED, ONE, bounds_of, want, want64, weights_of

X16 = torch.float16
LENGTHS = {
    "one token": [1],
    "17 and 3 among empty ones": [0, 17, 0, 0, 3, 0],
    "31": [31],
    "several tiles": [20, 13, 1, 32, 0, 5, 30],
}


def with_clusters(gpu: tuple[int, ...]) -> tuple[int, ...]:
    """With the clusters of 1, 2, 4 and 8 thread blocks that run at once, where they are not named."""
    return gpu if len(gpu) > 3 else (*gpu, *(gpu[0] >> i for i in range(4)))


class Runner:
    """Runs plans: on a GPU, or emulated with the weights multicast or not, in the seed's order."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.module: Any = native.load_cuda() if device == "cuda" else emulated_encoder()
        self.is_bulk, self.seed = True, 0

    def gpu(self, device: object = None) -> tuple[int, ...]:
        return tuple(self.module.encoder_gpu()) if self.device == "cuda" else with_clusters(H200)

    def run(self, plan: Any, *, device: torch.device, **arguments: Any) -> None:
        self.module.encoder_run(plan, is_bulk=self.is_bulk, seed=self.seed, **arguments)

    def encode(
        self,
        x: Tensor,
        lengths: list[int],
        weights: list[Tensor],
        layout: EncoderLayout,
        tile: tuple[int, int, int] | None = None,
        gpu: tuple[int, ...] | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> Tensor:
        """With `tile` (groups of 16 rows, thread blocks of a cluster, heads), or the planner's choice."""
        bounds = bounds_of(lengths, x.device) if cu_seqlens is None else cu_seqlens
        batch = (x.shape[0], bounds.numel() - 1, max(lengths, default=0))
        gpu = self.gpu() if gpu is None else tuple(map(min, with_clusters(gpu), self.gpu()))  # no more than there is
        plan = plan_of(self.module, layout, x.shape[1], gpu, batch, tile)
        if plan.refusal and self.device == "cuda" and gpu[2] == 1:
            pytest.skip(f"this GPU has no clusters: {plan.refusal}")
        assert plan.refusal == ""
        return cuda.PersistentEncoder(weights, layout, x.shape[1], plan.heads, plan.is_wide)(x, bounds, plan)


@pytest.fixture
def runner(device: str, monkeypatch: pytest.MonkeyPatch) -> Runner:
    if device == "cuda" and native.why_not_cuda() is not None:
        pytest.skip(str(native.why_not_cuda()))
    found = Runner(device)
    if device == "cpu":
        monkeypatch.setattr(cuda, "run", found.run)
        monkeypatch.setattr(cuda, "load_cuda", lambda: found.module)
        monkeypatch.setattr(cuda, "_gpu", found.gpu)
        cuda._plan.cache_clear()
    return found


def check(
    runner: Runner,
    lengths: list[int],
    layout: EncoderLayout,
    n_hidden: int = HIDDEN,
    dtype: torch.dtype = torch.bfloat16,
    **how: Any,
) -> None:
    x = torch.randn(sum(lengths), n_hidden, device=runner.device).to(dtype)
    weights = weights_of(layout, n_hidden, runner.device, dtype)
    y = runner.encode(x, lengths, weights, layout, **how)
    assert y.data_ptr() != x.data_ptr()
    truth = want64(x, lengths, weights, layout)
    assert_no_worse_than_eager(y, want(x, lengths, weights, layout), truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_states_are_no_worse_than_eager_at_every_length(runner, lengths, dtype):
    check(runner, lengths, MIXED, dtype=dtype)


@pytest.mark.parametrize("tile", [(2, 1, 3), (4, 1, 2)], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_thread_blocks_without_clusters_agree(runner, lengths, tile):
    """The machine of sm_80: every thread copies its own weights, and no warp multiplies with others."""
    runner.is_bulk = False
    check(runner, lengths, MIXED, gpu=A100 if runner.device == "cpu" else None, tile=tile)


# 16-row groups of a thread block, thread blocks of a cluster, heads attended to together
TILES = [(2, 1, 1), (2, 2, 2), (2, 4, 3), (2, 8, 1), (4, 1, 2), (4, 2, 3)]


@pytest.mark.parametrize("tile", TILES, ids=str)
def test_states_are_no_worse_than_eager_with_every_tile(runner, tile):
    layout = replace(ONE, heads=(5,))
    check(runner, [5, 0, 26, 17], layout, tile=tile)


LAYOUTS = {
    "no layer": replace(ONE, heads=(), intermediate=(), mha=(), ffn=()),
    "all removed": replace(ONE, heads=(0,), intermediate=(0,), mha=(False,), ffn=(False,)),
    "no unit": replace(ONE, heads=(0,), intermediate=(0,)),
    "relu": replace(ONE, activation="relu"),
    "gelu_new": replace(ONE, activation="gelu_new"),
    "one dim, one head of 64": replace(ONE, heads=(1,), intermediate=(1,), head_dim=64),
    "heads of 24": replace(ONE, head_dim=24),
    "two passes over the dims": replace(ONE, heads=(0,), intermediate=(900,), mha=(False,)),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_states_are_no_worse_than_eager_for_every_layout(runner, layout):
    check(runner, [5, 12], layout, dtype=torch.float16)


@pytest.mark.parametrize("n_hidden", [1, 16, 130, 300, 764, 768])
def test_states_are_no_worse_than_eager_at_every_hidden_size(runner, n_hidden):
    check(runner, [18], ONE, n_hidden)


@pytest.mark.parametrize("shared_bytes", [190_000, 150_000])
@pytest.mark.parametrize("is_bulk", [True, False], ids=["multicast", "own copies"])
def test_stages_of_some_columns(runner, shared_bytes, is_bulk):
    """A small ring: one depth of a product goes through it in parts."""
    runner.is_bulk = is_bulk
    layout = replace(ONE, heads=(1,), intermediate=(450,), head_dim=16)
    check(runner, [9, 17], layout, 700, gpu=(132, shared_bytes, 8 if is_bulk else 1), tile=(2, 1, 1))


# columns: blocks of 16 for each of two warpgroups, which multiply by 6 at once
@pytest.mark.parametrize("dims", [1, 17, 97, 190, 300, 768, 900])
def test_warpgroups_take_any_number_of_columns(runner, dims):
    check(runner, [9, 17, 30], replace(ONE, heads=(1,), intermediate=(dims,)), 130, tile=(4, 1, 1))


@pytest.mark.parametrize("shared_bytes", [H200[1], 196_000, 184_000])
def test_stages_of_one_warpgroup(runner, shared_bytes):
    """A small ring: a stage has the columns of one of them, while the other is ahead or behind."""
    layout = replace(ONE, heads=(1,), intermediate=(250,), head_dim=16)
    check(runner, [9, 17, 38], layout, 700, gpu=(132, shared_bytes, 8), tile=(4, 1, 1))


@pytest.mark.parametrize("lengths", [[130, 2], [128, 128], [64, 1, 63, 128]], ids=str)
def test_sequences_of_several_thread_blocks(runner, lengths):
    check(runner, lengths, ONE, tile=(4, 4, 2))


@pytest.mark.parametrize("multiprocessors", [1, 2, 5])
def test_clusters_take_turns_at_the_tiles(runner, multiprocessors):
    lengths = [30, 2, 31, 17, 0, 0, 16, 9, 32]
    check(runner, lengths, ONE, gpu=(multiprocessors, H200[1], 8), tile=(2, 1, 2))


def test_fewer_clusters_than_multiprocessors_are_there_for_take_all_tiles(runner):
    """Two, where four multiprocessors would hold four."""
    lengths = [30, 2, 31, 17, 0, 0, 16, 9, 32]
    check(runner, lengths, ONE, gpu=(8, H200[1], 8, 8, 2, 1, 0), tile=(2, 2, 2))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "is_bulk, tile", [(True, (2, 4, 1)), (True, (4, 2, 1)), (False, (2, 1, 1))], ids=["multicast", "wide", "own copies"]
)
def test_order_of_threads_and_copies_does_not_matter(runner, is_bulk, tile, seed):
    """A barrier that is missing shows here, as far as an emulation can show it."""
    if runner.device == "cuda":
        pytest.skip("a GPU takes no order: compute-sanitizer --tool racecheck looks there")
    lengths = [20, 13, 1, 32, 30]
    x, weights = torch.randn(96, HIDDEN).bfloat16(), weights_of(MIXED, HIDDEN, "cpu", torch.bfloat16)
    runner.is_bulk = is_bulk
    how = {"tile": tile, "gpu": (4, H200[1], 8 if is_bulk else 1)}
    before = runner.encode(x, lengths, weights, MIXED, **how)
    runner.seed = seed
    assert torch.equal(runner.encode(x, lengths, weights, MIXED, **how), before)


def test_sequences_to_spare_change_nothing(runner):
    lengths = [6, 0, 20]
    x = torch.randn(40, HIDDEN, device=runner.device).half()
    weights = weights_of(ONE, HIDDEN, runner.device, torch.float16)
    y = runner.encode(x[:26], lengths, weights, ONE)
    assert torch.equal(runner.encode(x, [*lengths, 14, 0], weights, ONE)[:26], y)


@pytest.mark.parametrize("row, sequence", [(3, 0), (8, 1)], ids=["first", "second"])
def test_nan_stays_in_its_sequence(runner, row, sequence):
    """Keys of the second lie in the same blocks of 16 as those of the first."""
    x = torch.randn(17, HIDDEN, device=runner.device).half()
    weights = weights_of(MIXED, HIDDEN, runner.device, torch.float16)
    x[row, 2] = float("nan")
    is_nan = runner.encode(x, [5, 12], weights, MIXED).isnan().all(1)
    assert is_nan.tolist() == [sequence == 0] * 5 + [sequence == 1] * 12


@pytest.mark.parametrize("n_hidden", [29, 130])
def test_columns_of_padding_do_not_count_in_the_norm(runner, n_hidden):
    """Rows far from 0: a column of padding, less their mean, would be large."""
    x = (torch.randn(9, n_hidden, device=runner.device) + 8).half()
    weights = weights_of(ONE, n_hidden, runner.device, torch.float16)
    truth = want64(x, [9], weights, ONE)
    assert_no_worse_than_eager(runner.encode(x, [9], weights, ONE), want(x, [9], weights, ONE), truth)


@pytest.mark.parametrize("bounds", [[-3, 4, 900], [0, 900, 2], [7, 0, 8]], ids=str)
def test_bounds_beyond_the_rows_touch_nothing_else(runner, bounds):
    memory = torch.zeros(40, 32, device=runner.device).half()
    weights = weights_of(ONE, 32, runner.device, torch.float16)
    wrong = torch.tensor(bounds, dtype=torch.int32, device=runner.device)
    runner.encode(memory[8:16], [30], weights, ONE, cu_seqlens=wrong, tile=(2, 1, 1))
    assert (memory == 0).all()


def forward(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    sizes = (list(layout.heads), list(layout.intermediate), list(layout.mha), list(layout.ffn))
    settings = (layout.head_dim, layout.eps, layout.activation, "fp32")
    return cuda.forward(x, bounds_of(lengths, x.device), max(lengths), weights, *sizes, *settings)


def test_packed_weights_are_kept_until_one_changes(runner, monkeypatch):
    made: list[int] = []
    monkeypatch.setattr(cuda, "pack_fragments", lambda *a: made.append(1) or pack_fragments(*a))
    x = torch.randn(4, HIDDEN, device=runner.device).half()
    weights = weights_of(ONE, HIDDEN, runner.device, torch.float16)
    before = forward(x, [4], weights, ONE)
    assert torch.equal(forward(x, [4], weights, ONE), before) and len(made) == 1
    weights[6][0] += 1  # counted by PyTorch
    counted = forward(x, [4], weights, ONE)
    weights[6].data[1] += 1  # not counted
    uncounted = forward(x, [4], weights, ONE)
    assert len(made) == 3
    assert not torch.equal(counted, before) and not torch.equal(uncounted, counted)
    assert torch.equal(uncounted, runner.encode(x, [4], weights, ONE))


def test_weights_are_packed_for_every_number_of_heads_a_plan_takes(runner, monkeypatch):
    made: list[int] = []
    monkeypatch.setattr(cuda, "pack_fragments", lambda *a: made.append(a[3]) or pack_fragments(*a))
    layout = replace(ONE, heads=(3,))
    x, weights = torch.randn(4, HIDDEN, device=runner.device).half(), weights_of(layout, HIDDEN, runner.device, X16)
    found = {cuda._kept.find(x, weights, layout, heads, False) for heads in (1, 3, 1, 3)}
    assert made == [1, 3] and len(found) == 2


def test_other_dtypes_go_to_the_reference(runner):
    x, weights = torch.randn(4, HIDDEN), weights_of(ONE, HIDDEN, "cpu", torch.float32)
    assert torch.equal(forward(x, [4], weights, ONE), want(x, [4], weights, ONE))


@pytest.mark.parametrize(
    "change, hidden, lengths, reason",
    [
        ({"head_dim": 65}, HIDDEN, [4], "takes at most 64 dims a head, the model has 65"),
        ({}, 769, [4], "takes at most 768 hidden dims, the model has 769"),
        ({}, HIDDEN, [2000], "no tile of whole sequences of up to 2000 tokens fits"),
    ],
    ids=["head", "hidden", "length"],
)
def test_shapes_that_no_plan_takes_run_elsewhere_and_say_why(runner, change, hidden, lengths, reason):
    layout = replace(ONE, **change)
    x = torch.randn(sum(lengths), hidden, device=runner.device).half()
    weights = weights_of(layout, hidden, runner.device, torch.float16)
    with pytest.warns(RuntimeWarning, match=reason):
        y = forward(x, lengths, weights, layout)
    truth = want64(x, lengths, weights, layout)
    assert_no_worse_than_eager(y, want(x, lengths, weights, layout), truth)


def test_blocks_are_what_the_lanes_of_mma_hold():
    matrix = torch.arange(32 * 48).reshape(32, 48)
    blocks = to_lanes(matrix).reshape(2, 3, 32, 2, 2, 2)  # depth, column, lane, tile, half, element
    for k, n in [(0, 0), (5, 9), (17, 47), (31, 20), (10, 40)]:
        lane = n % 8 * 4 + k % 8 // 2
        assert blocks[k // 16, n // 16, lane, n % 16 // 8, k % 16 // 8, k % 2] == matrix[k, n]


def test_blocks_are_core_matrices_of_wgmma():
    matrix = torch.arange(32 * 48).reshape(32, 48)
    # depth, column, half of the outputs, of the inputs, output, input
    blocks = to_core_matrices(matrix).reshape(2, 3, 2, 2, 8, 8)
    for k, n in [(0, 0), (5, 9), (17, 47), (31, 20), (10, 40)]:
        assert blocks[k // 16, n // 16, n % 16 // 8, k % 16 // 8, n % 8, k % 8] == matrix[k, n]


@pytest.mark.parametrize("lengths, tile", [([128], None), ([39, 50, 12, 27], (4, 2, 1))], ids=["128", "four"])
def test_pruned_bert_is_no_worse_than_eager(runner, lengths, tile):
    """The 95 % structure, all of it: 4.3 M weights, 640 to 760 stages."""
    heads, dims = (2, 3, 2, 0, 0, 0, 0, 0, 2, 2, 1, 0), (500, 300, 0, 0, 0, 0, 0, 0, 0, 250, 0, 200)
    kept = {"mha": tuple(h > 0 for h in heads), "ffn": tuple(d > 0 for d in dims)}
    layout = EncoderLayout(heads=heads, intermediate=dims, **kept, head_dim=64, eps=1e-12, activation="gelu")
    check(runner, lengths, layout, 764, tile=tile)
