"""python -m bench.gpu, the whole program on tiny shapes: no number counts here, but a GPU is too dear for a typo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.gpu.__main__ import CASES, main
from bench.gpu.record import SMOKE_NOTE, Record, Target, results_folder
from bench.gpu.sizes import smoke_sizes

ROW = {"family", "case", "metric", "unit", "value", "rivals", "floor", "spread"}


def result_of(folder) -> dict:
    (path,) = folder.glob("*/gpu.json")
    return json.loads(path.read_text())


def assert_every_target_has_its_row(rows: list[dict[str, Any]]) -> None:
    """Those of the issue, and that replays and losses are right; limits in us, ms, min or of what is beside them."""
    dense, (live,) = {row["family"]: row for row in rows if row["case"] == "100% live"}, smoke_sizes().live[1:]
    wanted = {
        ("hard_concrete + expected_size", "whole model"): 20.0,
        ("step", "nothing dead, teacher computed"): 5.5,
        ("step", "nothing dead, against torch.compile"): 0.5,
        ("step", f"{live:.0%} live, teacher cached"): 1.5,
        ("step", "20 epochs"): 15.0,
        ("step", "graph replay equals launches"): 0.0,
        ("step", "3 steps"): None,  # twice what the reference strays, and 1 %
    }
    for block in ("masked_ffn", "masked_attention"):
        wanted[block, "100% live"] = 1.1 * dense[block]["rivals"]["gemms"]
        wanted[block, f"{live:.0%} live"] = 5.0 + 1.2 * live * dense[block]["value"]
    for row in (row for row in rows if row["family"] == "layer_match" and row["floor"] is not None):
        wanted["layer_match", row["case"]] = 1.5 * row["floor"]
    assert {("layer_match", "all layers live"), ("layer_match", "every second layer live")} < set(wanted)
    with_target = [row for row in rows if "target" in row]
    for (family, case), limit in wanted.items():
        (row,) = (row for row in with_target if row["family"] == family and row["case"].startswith(case))
        assert limit is None or row["target"]["limit"] == pytest.approx(limit), (family, case)
    assert len(with_target) == len(wanted)


def test_smoke_run_goes_through_every_case(tmp_path, capsys):
    assert main(["--smoke", "--output", str(tmp_path)]) == 0
    result = result_of(tmp_path)
    assert result["failed"] == result["skipped"] == []
    assert {"device", "cpu", "torch", "triton", "commit", "date"} <= set(result["machine"])
    assert all(set(row) >= ROW for row in result["rows"])
    families = {
        "hard_concrete + expected_size",
        "layer_match",
        "masked_ffn",
        "masked_attention",
        "masked_layer_norm",
        "step",
    }
    assert {row["family"] for row in result["rows"]} == families
    assert families - {"step"} <= {row["family"] for row in result["rows"] if row["case"].startswith("correctness")}
    prunes = [row["case"] for row in result["rows"] if row["case"].endswith("extrapolated")]
    assert len(prunes) == 2 and "teacher computed" in prunes[0] and "teacher cached" in prunes[1]
    assert_every_target_has_its_row(result["rows"])
    printed = capsys.readouterr().out
    for target in (row["target"]["text"] for row in result["rows"] if "target" in row):
        assert f"| {target} |" in printed
    assert result["smoke"] == SMOKE_NOTE and SMOKE_NOTE in printed
    assert "| met |" not in printed and "| MISSED |" not in printed
    if not torch.cuda.is_available():
        assert "not on a GPU" in printed


def test_what_no_time_is_left_for_is_skipped_and_said(tmp_path, capsys):
    assert main(["--smoke", "--output", str(tmp_path), "--budget-seconds", "0"]) == 0
    result = result_of(tmp_path)
    assert result["rows"] == [] and [item["case"] for item in result["skipped"]] == list(CASES)
    assert "| step | skipped |" in capsys.readouterr().out


def test_a_case_that_fails_leaves_the_others_and_their_rows(tmp_path, monkeypatch):
    def fail(bench):
        raise AssertionError("dx: relative error 1")

    monkeypatch.setitem(CASES, "layer_match", (fail, 1))
    assert main(["--smoke", "--output", str(tmp_path), "--only", "layer_match", "gates"]) == 1
    result = result_of(tmp_path)
    assert result["failed"] == [{"case": "layer_match", "why": "AssertionError: dx: relative error 1"}]
    assert {row["family"] for row in result["rows"]} == {"hard_concrete + expected_size"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_only_smoke_runs(tmp_path):
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        main(["--output", str(tmp_path)])


def test_a_smoke_run_does_not_overwrite_results(tmp_path):
    assert results_folder(None, "bench/results", smoke=False) == Path("bench/results")
    assert results_folder(None, "bench/results", smoke=True) == Path("build/smoke")
    assert results_folder(tmp_path, "bench/results", smoke=True) == tmp_path
    record = Record(tmp_path, {"device": "NVIDIA H200"}, smoke=True)
    record.add("f", "a", "time", "us", 1.0, target=Target("fast", 2.0))
    assert "| fast | f, a | 1 us | 2 us | tiny shapes |" in record.targets()


def test_rows_are_on_disk_after_each_case(tmp_path):
    record = Record(tmp_path, {"device": "NVIDIA H200"})
    record.add("f", "a", "time", "us", 3.0, target=Target("fast", 2.0))
    assert result_of(tmp_path)["rows"][0]["target"] == {"text": "fast", "limit": 2.0, "met": False}
    record.add("f", "b", "time", "us", 1.0, target=Target("faster", 2.0))
    assert len(result_of(tmp_path)["rows"]) == 2
    assert "| fast | f, a | 3 us | 2 us | MISSED |" in record.targets()
    assert "| faster | f, b | 1 us | 2 us | met |" in record.targets()
