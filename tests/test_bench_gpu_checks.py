"""What python -m bench.gpu takes for correct, what becomes of a case that is not, and how contestants are captured."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch

from bench.gpu import bench as bench_module
from bench.gpu import blocks, norm, rivals, step
from bench.gpu.__main__ import CASES, main
from bench.gpu.bench import Bench, cast
from bench.gpu.judging import judge
from bench.gpu.record import Record
from bench.gpu.sizes import SMOKE, Sizes
from bench.gpu.training import training
from cofi_kernels import masked_ffn


def bench_of(folder, sizes: Sizes = SMOKE) -> Bench:
    return Bench(sizes, Record(folder, {"device": "cpu", "cpu": "none"}), smoke=True)


def result_of(folder) -> dict:
    (path,) = folder.glob("*/gpu.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("block, layer", [(blocks.FFN, "z_ffn"), (blocks.ATTENTION, "z_mha")], ids=["ffn", "attention"])
def test_the_gradient_of_a_whole_layer_does_not_cancel(tmp_path, monkeypatch, block, layer):
    """z dz = sum(dy * y): as large as if dy were y, where a random dy leaves one part in the root of their number."""
    asked: list[tuple[Callable[..., Any], dict[str, torch.Tensor]]] = []
    monkeypatch.setattr(Bench, "check", lambda self, family, case, run, leaves: asked.append((run, leaves)))
    bench = bench_of(tmp_path)
    blocks.run(block, bench)
    assert len(asked) == len(bench.sizes.live)
    for run, leaves in asked:
        found = dict(run(**cast(leaves, torch.float64, everything=True)))
        y = found["value"]
        assert leaves[layer] * found[f"d{layer}"] > 0.5 * y.numel() ** 0.5 * y.norm()


OPS = {
    "masked_ffn": (blocks, "masked_ffn", partial(blocks.run, blocks.FFN)),
    "masked_attention": (blocks, "masked_attention", partial(blocks.run, blocks.ATTENTION)),
    "masked_layer_norm": (norm, "masked_layer_norm", norm.run),
}


@pytest.mark.parametrize("module, op, run", OPS.values(), ids=OPS)
def test_ops_are_given_masters_as_in_training(tmp_path, monkeypatch, module, op, run):
    """Beside bf16 every weight and mask is fp32, and so are their gradients: `test_no_host_sync` has it of a step."""
    given: set[torch.dtype] = set()
    function = getattr(module, op)

    def spy(*arguments, **keywords):
        x, *others = (t for t in (*arguments, *keywords.values()) if isinstance(t, torch.Tensor))
        if x.dtype == torch.bfloat16:
            given.update(t.dtype for t in others if t.is_floating_point() and t.shape != x.shape)
        return function(*arguments, **keywords)

    monkeypatch.setattr(module, op, spy)
    bench = bench_of(tmp_path, replace(SMOKE, dtype=torch.bfloat16))
    run(bench)
    assert bench.record.failed == bench.record.skipped == [] and bench.record.rows
    assert {"eager", "compiled"} <= set(bench.record.rows[-1]["rivals"])
    assert given == {torch.float32}


def test_every_precision_is_given_the_same_gradient():
    """Rounded once: otherwise the rounding of dy would be an error of ours and of eager's alike, and hide theirs."""
    y = torch.randn(40, 8)
    dy = bench_module.leaning(y, torch.bfloat16)
    assert dy.dtype == torch.bfloat16 and (dy.float() * y).sum() > 0.5 * y.numel() ** 0.5 * y.norm()


@pytest.mark.parametrize(
    "n, error, wrong",
    [(1, 1e-3, False), (1, 2e-2, True), (100, 1e-3, True)],
    ids=["luck", "one number", "many numbers"],
)
def test_eager_that_happens_to_be_exact_forbids_no_rounding_of_one_number(tmp_path, n, error, wrong):
    """Half a step of bf16 is 3.9e-3; many numbers in fp32 are held to eager's error and half a step of fp32."""
    bench = bench_of(tmp_path, replace(SMOKE, dtype=torch.bfloat16))
    exact = torch.ones(n)
    results = iter([exact * (1 + error), exact, exact])  # ours, eager, fp64
    assert bench.check("f", "a", lambda **leaves: [("dz_layer", next(results))], {}) != wrong
    (row,) = bench.record.rows
    assert row["value"] == pytest.approx(error, rel=1e-3)
    assert row.get("wrong", []) == (["dz_layer"] if wrong else [])
    assert row["errors"]["dz_layer"]["error"] == row["value"]
    assert len(bench.record.failed) == len(bench.record.skipped) == wrong


def test_what_is_not_a_number_is_wrong_and_readable():
    verdict = judge(torch.tensor([float("nan")]), torch.ones(1), torch.ones(1).double(), torch.float32)
    assert verdict.wrong and "Infinity" not in json.dumps(verdict)


def wrong_where_all_live(**leaves: torch.Tensor) -> torch.Tensor:
    y = masked_ffn(**leaves)
    return 1.01 * y if y.dtype == SMOKE.dtype and (leaves["z_int"] != 0).all() else y


def broken_where_all_live(**leaves: torch.Tensor) -> torch.Tensor:
    if (leaves["z_int"] != 0).all():
        raise RuntimeError("out of resources")
    return masked_ffn(**leaves)


@pytest.mark.parametrize(
    "ours, case, why",
    [
        (
            wrong_where_all_live,
            "correctness, masked_ffn, 100% live",
            "value: relative error 1.00e-02 against fp64, at ",
        ),
        (broken_where_all_live, "masked_ffn, 100% live", "RuntimeError: out of resources"),
    ],
    ids=["wrong", "broken"],
)
def test_a_case_that_fails_leaves_the_others_of_its_family(tmp_path, monkeypatch, capsys, ours, case, why):
    monkeypatch.setitem(CASES, "masked_ffn", (partial(blocks.run, replace(blocks.FFN, ours=ours)), 1))
    assert main(["--smoke", "--output", str(tmp_path), "--only", "masked_ffn"]) == 1
    result = result_of(tmp_path)
    (failure,) = result["failed"]
    assert failure["case"] == case and why in failure["why"]
    timed = {row["case"]: row for row in result["rows"] if not row["case"].startswith("correctness")}
    assert set(timed) == {"20% live"}
    assert "target" not in timed["20% live"]  # it is counted in the dense time
    if ours is wrong_where_all_live:
        checked = {row["case"]: row for row in result["rows"]}
        assert "value" in checked["correctness, 100% live"]["wrong"]
        assert "wrong" not in checked["correctness, 20% live"]
        assert result["skipped"] == [{"case": "masked_ffn, 100% live", "why": "it was not correct"}]
        assert "WRONG: value" in capsys.readouterr().out


def test_weights_in_fp32_under_bf16_are_computed_by_ours_and_by_plain_operators(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.gpu.__main__.smoke_sizes", lambda: replace(SMOKE, dtype=torch.bfloat16))
    assert main(["--smoke", "--output", str(tmp_path), "--only", "compiled_step"]) == 0
    assert result_of(tmp_path)["failed"] == []


@pytest.fixture
def captures(monkeypatch) -> list[Any]:
    """A GPU on which every capture fails, behind what it recorded; the functions that were captured."""
    tried: list[Any] = []

    @contextlib.contextmanager
    def graph(*args: Any, **kwargs: Any) -> Iterator[None]:
        tried.append("captured")
        yield
        raise RuntimeError("operation not permitted when stream is capturing")

    fakes = {"Stream": mock.MagicMock, "current_stream": mock.MagicMock, "CUDAGraph": mock.MagicMock, "graph": graph}
    fakes |= {
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "is_available": lambda: True,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return tried


def test_a_rival_that_its_users_launch_is_not_captured(tmp_path, captures):
    calls: list[str] = []
    theirs = {name: partial(calls.append, name) for name in ("hf eager", "hf eager, graph")}
    found = bench_of(tmp_path).contestants(lambda: None, theirs, launched=["hf eager"])
    assert [c.graphed for c in found] == [False] * 3 and len(captures) == 2
    assert calls.count("hf eager") == calls.count("hf eager, graph") - 1


def test_hugging_face_is_timed_as_it_is_launched_and_as_a_graph(tmp_path, monkeypatch):
    prepared: dict[str, bool] = {}
    prepare = bench_module.prepare

    def spy(name: str, run: Callable[[], Any], *, captured: bool = True):
        prepared[name] = captured
        return prepare(name, run, captured=captured)

    monkeypatch.setattr(bench_module, "prepare", spy)
    bench = bench_of(tmp_path)
    step._times(bench)
    prepared.pop("ceiling")  # of the machine
    assert prepared == {"ours": True, "hf eager": False, "hf eager, graph": True}
    assert set(bench.record.rows[0]["rivals"]) == {"hf eager", "hf eager, graph"}


def trained_of(name: str, bench: Bench) -> tuple[Callable[[], Any], list[torch.nn.Parameter]]:
    if name == "hugging face":
        theirs = rivals.HuggingFace(bench, captured=False)
        return theirs, theirs.trained
    ours = training(bench)
    run = ours.step() if name == "ours" else rivals.compiled_reference(bench, ours)
    return run, ours.optimizers.parameters


@pytest.mark.parametrize("name", ["hugging face", "ours", "compiled reference"])
def test_gradients_that_a_failed_capture_left_reach_no_weight(tmp_path, name):
    """They lie in memory that nothing computed; here that is NaN."""
    run, trained = trained_of(name, bench_of(tmp_path))
    for p in trained:
        p.grad = torch.full_like(p, float("nan"))
    run()
    assert all(p.isfinite().all() for p in trained)
