"""The encoder's Triton kernels: in the interpreter (or on a GPU) against fp64, every way to launch a sublayer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cofi_kernels import EncoderLayout
from cofi_kernels.compact_encoder import costs, plans
from cofi_kernels.compact_encoder.costs import Gpu, Rows
from cofi_kernels.launching import is_dependent, launch_options, launching
from cofi_kernels.library import _OPS
from cofi_kernels.testing import assert_close_to_fp64, assert_no_worse_than_eager
from tests.kernels.encoders import HIDDEN, MIXED, ONE, bounds_of, want, want64, weights_of

pytest.importorskip("triton")
from cofi_kernels.compact_encoder import triton_kernels  # noqa: E402

LENGTHS = {
    "one token": [1],
    "17 and 3 among empty ones": [0, 17, 0, 0, 3, 0],
    "128": [128],
    "130 and 2": [130, 2],
}
ATTENTION_MODES = {"whole": 9, "part": 2, "part of one head": 1, "context": 1}  # heads a program
FFN_MODES = ("whole", "part", "linear")


def run(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    encoder = triton_kernels.PaddedEncoder(weights, layout, x.shape[1])
    return encoder(x, bounds_of(lengths, x.device), max(lengths, default=0))


@pytest.fixture
def low(device):
    """What is compared with eager: tl.dot of bf16 is wrong in the interpreter."""
    return torch.bfloat16 if device == "cuda" else torch.float16


def check(device: str, lengths: list[int], layout: EncoderLayout, n_hidden: int = HIDDEN) -> None:
    """fp32 in the interpreter, where it is exact, against fp64; bf16 on a GPU, no worse than eager."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    x = torch.randn(sum(lengths), n_hidden, device=device).to(dtype)
    weights = weights_of(layout, n_hidden, device, dtype)
    y, truth = run(x, lengths, weights, layout), want64(x, lengths, weights, layout)
    assert y.data_ptr() != x.data_ptr()
    if device == "cuda":
        assert_no_worse_than_eager(y, want(x, lengths, weights, layout), truth)
    else:
        assert_close_to_fp64(y, truth)


def force(monkeypatch: pytest.MonkeyPatch, attention: str, ffn: str, rows: int = 16) -> None:
    """Every sublayer by the launches named, whatever their predicted time."""
    linear = next(tile for tile in plans.LINEAR_TILES if tile.rows == rows)
    tile = next(tile for tile in plans.FFN_TILES if tile.rows == min(rows, 32))
    mode = "part" if attention.startswith("part") else attention
    heads = ATTENTION_MODES[attention]
    attend = plans.AttentionPlan(mode, linear, heads, linear)
    monkeypatch.setattr(plans, "plan_attention", lambda *sizes: attend)

    def feed(at: Rows, size: plans.FfnSize, gpu: Gpu) -> plans.FfnPlan:
        return plans.FfnPlan(ffn, tile, size.n_dims // 64 if ffn == "part" else 1, linear, linear)

    monkeypatch.setattr(plans, "plan_ffn", feed)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_states_match_fp64_at_every_length(device, lengths):
    check(device, lengths, MIXED if sum(lengths) < 100 else ONE)


@pytest.mark.parametrize("attention", ATTENTION_MODES)
def test_every_way_to_attend_matches_fp64(device, monkeypatch, attention):
    force(monkeypatch, attention, "whole")
    check(device, [5, 0, 66], replace(ONE, heads=(3,), intermediate=(0,), ffn=(False,)))


@pytest.mark.parametrize("rows", [16, 32, 128])
@pytest.mark.parametrize("ffn", FFN_MODES)
def test_every_way_through_the_ffn_matches_fp64(device, monkeypatch, ffn, rows):
    force(monkeypatch, "whole", ffn, rows)
    check(device, [35], replace(ONE, heads=(0,), intermediate=(131,), mha=(False,)))


LAYOUTS = {
    "no layer": replace(ONE, heads=(), intermediate=(), mha=(), ffn=()),
    "all removed": replace(ONE, heads=(0,), intermediate=(0,), mha=(False,), ffn=(False,)),
    "no unit": replace(ONE, heads=(0,), intermediate=(0,)),
    "relu": replace(ONE, activation="relu"),
    "gelu_new": replace(ONE, activation="gelu_new"),
    "one dim, one head of 64": replace(ONE, heads=(1,), intermediate=(1,), head_dim=64),
    "heads of 24": replace(ONE, head_dim=24),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_states_match_fp64_for_every_layout(device, layout):
    check(device, [5, 12], layout)


@pytest.mark.parametrize("n_hidden", [1, 64, 65, 128, 300, 764, 1024])
def test_states_match_fp64_at_every_hidden_size(device, n_hidden):
    check(device, [18], ONE, n_hidden)


@pytest.mark.parametrize("attention, ffn", [("whole", "whole"), ("part", "part"), ("context", "linear")])
def test_low_precision_is_no_worse_than_eager(device, low, monkeypatch, attention, ffn):
    force(monkeypatch, attention, ffn)
    lengths = [5, 0, 12]
    x, weights = torch.randn(17, HIDDEN, device=device).to(low), weights_of(MIXED, HIDDEN, device, low)
    y, eager = run(x, lengths, weights, MIXED), want(x, lengths, weights, MIXED)
    assert_no_worse_than_eager(y, eager, want64(x, lengths, weights, MIXED))


@pytest.mark.parametrize("attention, ffn", [("whole", "whole"), ("part", "part"), ("context", "linear")])
def test_rows_of_no_sequence_change_nothing(device, low, monkeypatch, attention, ffn):
    """Rows and empty sequences to spare behind those of the call, whatever lies there."""
    force(monkeypatch, attention, ffn)
    lengths = [2, 4]
    x, weights = torch.randn(6, HIDDEN, device=device).to(low), weights_of(ONE, HIDDEN, device, low)
    padded = torch.cat((x, torch.full((3, HIDDEN), float("nan"), device=device, dtype=low)))
    y = triton_kernels.PaddedEncoder(weights, ONE, HIDDEN)(padded, bounds_of([*lengths, 0, 0], device), 17)
    assert torch.equal(y[:6], run(x, lengths, weights, ONE))


def test_nan_stays_in_its_sequence(device, low):
    x, weights = torch.randn(17, HIDDEN, device=device).to(low), weights_of(MIXED, HIDDEN, device, low)
    x[3, 2] = float("nan")
    is_nan = run(x, [5, 12], weights, MIXED).isnan().all(1)
    assert is_nan.tolist() == [True] * 5 + [False] * 12


def test_bounds_beyond_the_rows_touch_nothing_else(device, low):
    memory = torch.zeros(40, HIDDEN, device=device).to(low)
    weights = weights_of(ONE, HIDDEN, device, low)
    encoder = triton_kernels.PaddedEncoder(weights, ONE, HIDDEN)
    y = encoder(memory[8:16], torch.tensor([-3, 4, 900], dtype=torch.int32, device=device), 900)
    assert y.isfinite().all() and (memory == 0).all()


def call(x: Tensor, lengths: list[int], weights: list[Tensor], layout: EncoderLayout) -> Tensor:
    sizes = (list(layout.heads), list(layout.intermediate), list(layout.mha), list(layout.ffn))
    settings = (layout.head_dim, layout.eps, layout.activation, "fp32")
    return triton_kernels.forward(x, bounds_of(lengths, x.device), max(lengths), weights, *sizes, *settings)


def test_padded_weights_are_kept_until_one_changes(device, low, monkeypatch):
    made = []
    monkeypatch.setattr(
        triton_kernels, "pad_weights", lambda *a, pad=triton_kernels.pad_weights: made.append(1) or pad(*a)
    )
    x, weights = torch.randn(4, HIDDEN, device=device).to(low), weights_of(ONE, HIDDEN, device, low)
    before = call(x, [4], weights, ONE)
    assert torch.equal(call(x, [4], weights, ONE), before) and len(made) == 1
    weights[6][0] += 1  # counted by PyTorch
    counted = call(x, [4], weights, ONE)
    weights[6].data[1] += 1  # not counted
    uncounted = call(x, [4], weights, ONE)
    assert len(made) == 3
    assert not torch.equal(counted, before) and not torch.equal(uncounted, counted)
    assert torch.equal(uncounted, run(x, [4], weights, ONE))


def test_other_dtypes_go_to_the_reference(device):
    x, weights = torch.randn(4, HIDDEN, device=device), weights_of(ONE, HIDDEN, device, torch.float32)
    with pytest.warns(RuntimeWarning, match="bf16 and fp16, not in torch.float32"):
        y = call(x, [4], weights, ONE)
    assert torch.equal(y, want(x, [4], weights, ONE))


def test_sizes_that_no_kernel_takes_go_to_the_reference_and_say_so(device, low):
    layout = replace(ONE, head_dim=65)
    x, weights = torch.randn(4, HIDDEN, device=device).to(low), weights_of(layout, HIDDEN, device, low)
    with pytest.warns(RuntimeWarning, match="at most 64 dims a head, the model has 65"):
        y = call(x, [4], weights, layout)
    assert torch.equal(y, want(x, [4], weights, layout))


def count_launches(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[tuple[str, int]]:
    """Kernels of these names and their programs, as they are launched from now on."""
    made: list[tuple[str, int]] = []

    class Counted:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            made.append((self.name, math.prod(grid)))
            return self.kernel[grid]

    for name in names:
        monkeypatch.setattr(triton_kernels.kernels, name, Counted(name, getattr(triton_kernels.kernels, name)))
    return made


@pytest.mark.parametrize("attention, ffn", [("whole", "whole"), ("part", "part"), ("context", "linear")])
def test_launches_are_those_that_are_made(device, low, monkeypatch, attention, ffn):
    """Names and programs in their order, as the accounting of the benchmark has them."""
    force(monkeypatch, attention, ffn)
    made = count_launches(monkeypatch, "linear_kernel", "attention_kernel", "ffn_kernel", "finish_kernel")
    x, weights = torch.randn(32, HIDDEN, device=device).to(low), weights_of(MIXED, HIDDEN, device, low)
    encoder = triton_kernels.PaddedEncoder(weights, MIXED, HIDDEN)
    encoder(x, bounds_of([16, 16], device), 16)
    planned = [launch for sublayer in encoder.launches(32, 2, x.device) for launch in sublayer]
    assert [(launch.kernel, launch.programs) for launch in planned] == made


def test_whole_sublayers_take_two_launches_and_one(device, low, monkeypatch):
    """What the first rung of the encoder promises."""
    force(monkeypatch, "whole", "whole")
    made = count_launches(monkeypatch, "linear_kernel", "attention_kernel", "ffn_kernel", "finish_kernel", "pad_kernel")
    x, weights = torch.randn(16, 64, device=device).to(low), weights_of(ONE, 64, device, low)  # no row is padded
    encoder = triton_kernels.PaddedEncoder(weights, ONE, 64)
    encoder(x, bounds_of([7, 9], device), 9)
    assert [name for name, _ in made] == ["linear_kernel", "attention_kernel", "ffn_kernel"]
    assert [len(sublayer) for sublayer in encoder.launches(16, 2, x.device)] == [2, 1]


def test_plans_tuned_for_plain_launches_are_not_those_of_dependent_ones(device, low, monkeypatch):
    gpu = Gpu(132)
    monkeypatch.setattr(triton_kernels, "gpu_of", lambda device: gpu)
    weights = weights_of(ONE, HIDDEN, device, low)
    encoder, sequences = triton_kernels.PaddedEncoder(weights, ONE, HIDDEN), bounds_of([4], device)
    slowest = iter(range(1000, 0, -1))  # what is tried last is taken
    encoder.tune(4, sequences, 4, low, lambda run: next(slowest))
    plain = dict(encoder.plans)
    gpu = Gpu(132, costs.DEPENDENT_LAUNCH_US)
    with launching(tuned=True):
        untuned = encoder.launches(4, 1, torch.device(device))
    assert untuned == encoder.launches(4, 1, torch.device(device))  # as predicted, not as tuned
    encoder.tune(4, sequences, 4, low, lambda run: 1.0)
    assert len(encoder.plans) == 2 * len(plain) and {key: encoder.plans[key] for key in plain} == plain


def test_calls_that_the_reference_takes_are_named_before():
    """In `backends()`, and by a warning, as library.py gives it for what an implementation declines."""
    found = {item.backend: item for item in _OPS["compact_encoder"].implementations if item.device == "cuda"}
    assert found["triton"].limits == "fp32 and fp64, more than 1024 hidden dims, more than 64 dims a head"
    assert found["cuda"].limits == "fp32 and fp64"

    def declines(backend: str, dtype: torch.dtype, n_hidden: int = HIDDEN, head_dim: int = 8) -> str | None:
        x, ask = torch.zeros(2, n_hidden, dtype=dtype), found[backend].declines
        assert ask is not None
        return ask(x, bounds_of([2], "cpu"), 2, [], [], [], [], [], head_dim, 1e-5, "gelu", "fp32")

    for backend in found:
        assert declines(backend, torch.float16) is declines(backend, torch.bfloat16) is None
        for dtype in (torch.float32, torch.float64):
            assert f"bf16 and fp16, not in {dtype}" in str(declines(backend, dtype))
    assert "at most 1024 hidden dims, the model has 1025" in str(declines("triton", torch.float16, 1025))
    assert "at most 64 dims a head, the model has 65" in str(declines("triton", torch.float16, head_dim=65))
    assert declines("cuda", torch.float16, 1025, 65) is None  # goes to the Triton kernels, which say so


def test_tuning_takes_what_was_measured_to_be_fastest(device, low):
    """Of attention the way without the projection, of the FFN plain products, with tiles that no prediction takes."""
    layout = replace(ONE, heads=(3,), intermediate=(131,))
    x, weights = torch.randn(35, HIDDEN, device=device).to(low), weights_of(layout, HIDDEN, device, low)
    encoder = triton_kernels.PaddedEncoder(weights, layout, HIDDEN)
    tiles = plans.LINEAR_TILES[1], plans.LINEAR_TILES[2]
    tried = []

    def measure(launch: Any) -> float:
        (key, plan) = list(encoder.plans.items())[-1]
        tried.append(plan)
        if isinstance(plan, plans.AttentionPlan):
            return 3.0 - (plan.mode == "context") - 0.5 * (plan.project == tiles[0]) - 0.5 * (plan.out == tiles[1])
        return 3.0 - (plan.mode == "linear") - 0.5 * (plan.up == tiles[0]) - 0.5 * (plan.down == tiles[1])

    sequences = bounds_of([5, 30], device)
    encoder.tune(35, sequences, 30, low, measure)
    attention, ffn = encoder.plans.values()
    assert (attention.mode, attention.project, attention.out) == ("context", *tiles)
    assert (ffn.mode, ffn.up, ffn.down) == ("linear", *tiles)
    eager, n_tried = want(x, [5, 30], weights, layout), len(tried)
    with launching(tuned=True):
        planned = [launch.what for sublayer in encoder.launches(35, 2, x.device) for launch in sublayer]
        y = encoder(x, sequences, 30)
    assert planned[:4] == ["q, k, v", "attention, context", "projection", "sum of 1, LayerNorm"]
    assert len(tried) == n_tried  # once for each size
    assert_no_worse_than_eager(y, eager, want64(x, [5, 30], weights, layout))


def test_plans_are_tuned_where_that_is_asked_for(device, low):
    x, weights = torch.randn(4, HIDDEN, device=device).to(low), weights_of(ONE, HIDDEN, device, low)
    encoder = triton_kernels.PaddedEncoder(weights, ONE, HIDDEN)
    encoder(x, bounds_of([4], device), 4)
    assert encoder.plans == {}
    with launching(tuned=True):
        encoder(x, bounds_of([4], device), 4)
    assert len(encoder.plans) == 2


def test_launches_are_dependent_only_where_that_is_asked_for_and_can_be():
    cpu = torch.device("cpu")
    with launching(dependent=True):
        assert not is_dependent(cpu) and launch_options(cpu) == {"DEPENDENT": False}
        if torch.cuda.is_available():
            assert is_dependent(torch.device("cuda")) == (torch.cuda.get_device_capability() >= (9, 0))
    assert not is_dependent(torch.device("cuda"))
