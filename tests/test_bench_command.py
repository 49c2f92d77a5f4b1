"""Timing, the speedup of a run, and `python -m cofi.bench`: what is measured, checked first, and written."""

from __future__ import annotations

import gc
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cofi.bench import __main__ as bench_command
from cofi.bench import engines, speedup, subjects, timing
from cofi.bench.results import Case, to_rows
from cofi.bench.speedup import check_against_definition, main_output, measure_speedup, quantile_batch
from cofi.bench.timing import MIN_ROUNDS, Timing, interleaved, machine_info, sgemm_gflops, summarize
from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.models import CompactConfig, CompactModel
from cofi.report import summary_table
from cofi.report.tables import measurement_note

SIZES = {"vocab_size": 60, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
SIZES |= {"head_dim": 8, "max_position_embeddings": 24}
PRUNED = {0: {"num_attention_heads": 1, "intermediate_size": 0}, 1: {"num_attention_heads": 0, "intermediate_size": 5}}


def make_dense(**fields: object) -> CompactModel:
    return CompactModel(CompactConfig(hidden_size=32, **SIZES, **fields)).eval()


def make_compact(**fields: object) -> CompactModel:
    return CompactModel(CompactConfig(hidden_size=30, per_layer_config=PRUNED, **SIZES, **fields)).eval()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run directory: the compact model and its teacher, with a classification head."""
    directory = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    make_compact(head="classification", num_labels=3).save_pretrained(directory / "model")
    make_dense(head="classification", num_labels=3).save_pretrained(directory / "teacher")
    return directory


@pytest.fixture(scope="module")
def hf_dir(tmp_path_factory) -> Path:
    from transformers import BertConfig, BertModel

    directory = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "head_dim"}
    BertModel(BertConfig(hidden_size=32, **sizes)).save_pretrained(directory)
    return directory


class TestInterleaved:
    def test_every_round_calls_each_once_and_everyone_follows_everyone(self, monkeypatch):
        monkeypatch.setattr("cofi.bench.timing.TURN_S", 0.0)
        calls: list[str] = []
        timings = interleaved({name: lambda n=name: calls.append(n) for name in "abc"}, rounds=40, warmup=1, pause_s=0)
        turns = [name for name, run in itertools.groupby(calls[3:]) for _ in range(len(list(run)) // 2)]
        rounds = ["".join(turns[i : i + 3]) for i in range(0, 120, 3)]
        assert len(turns) == 120 and {"".join(sorted(names)) for names in rounds} == {"abc"} and len(set(rounds)) == 6
        assert rounds[0] == "abc" and {name: timing.rounds for name, timing in timings.items()} == dict.fromkeys(
            "abc", 40
        )

    def test_a_turn_is_more_than_one_call(self):
        calls: list[str] = []
        interleaved({"a": lambda: calls.append("a")}, rounds=1, warmup=0)
        assert len(calls) > 3

    def test_a_time_limit_ends_it_after_the_least_number_of_rounds(self):
        timings = interleaved({"a": lambda: None}, rounds=10_000_000, seconds=1e-9)
        assert timings["a"].rounds == MIN_ROUNDS
        assert interleaved({"a": lambda: None}, rounds=2, seconds=1e-9)["a"].rounds == 2

    def test_the_device_is_waited_for_within_the_time(self):
        events: list[str] = []
        interleaved({"a": lambda: events.append("run")}, 2, 0, synchronize=lambda: events.append("wait"))
        assert len(events) > 4 and events == ["run", "wait"] * (len(events) // 2)

    def test_garbage_collection_is_off_meanwhile_and_back_afterwards(self):
        seen = []
        interleaved({"a": lambda: seen.append(gc.isenabled())}, rounds=2, warmup=0)
        assert len(seen) > 2 and not any(seen) and gc.isenabled()
        with pytest.raises(ZeroDivisionError):
            interleaved({"a": lambda: 1 // 0}, warmup=0)
        assert gc.isenabled()

    def test_idle_threads_of_the_one_before_are_waited_for_even_at_the_end(self, monkeypatch):
        pauses: list[float] = []
        monkeypatch.setattr(timing.time, "sleep", pauses.append)
        interleaved({"a": lambda: None, "b": lambda: None}, rounds=2, pause_s=0.125)
        assert pauses == [0.125] * 5

    @pytest.mark.parametrize("bad", [{"rounds": 0}, {"warmup": -1}, {"seconds": 0.0}, {"pause_s": -1.0}])
    def test_bad_arguments_are_named(self, bad):
        with pytest.raises(ValueError, match="rounds >= 1"):
            interleaved({"a": lambda: None}, **bad)
        with pytest.raises(ValueError, match="a callable"):
            interleaved({})


def test_summary_is_median_and_percentiles():
    timing = summarize([float(value) for value in range(100, -1, -1)])
    assert (timing.median_s, timing.p10_s, timing.p90_s, timing.rounds) == (50.0, 10.0, 90.0, 101)
    assert timing.spread == pytest.approx(1.6)
    assert summarize([2.0]) == Timing(2.0, 2.0, 2.0, 1)


def test_machine_is_described_as_result_files_want_it():
    info = machine_info()
    assert list(info) == ["device", "cpu", "threads", "torch", "triton", "driver", "commit", "date"]
    assert (info["device"], info["driver"]) == ("cpu", None)
    assert info["threads"] == torch.get_num_threads() and info["cpu"]
    json.dumps(info)


def test_sgemm_rate_is_positive_and_possible():
    assert 0.01 < sgemm_gflops(seconds=0.01) < 1e6


def test_batches_take_the_quantiles_of_the_lengths():
    lengths = list(range(100, 0, -1))
    batch = quantile_batch(lengths, 4, vocab_size=9)
    assert batch.cu_seqlens.diff().tolist() == [13, 38, 63, 88]
    assert batch.input_ids.max() < 9
    assert quantile_batch(lengths, 1, 9).cu_seqlens.tolist() == [0, 51]  # the median
    assert quantile_batch([3], 5, 9).cu_seqlens.diff().tolist() == [3] * 5


class TestMeasureSpeedup:
    def test_result_has_what_the_report_reads(self, device):
        dense, compact = make_dense().to(device), make_compact().to(device)
        result = measure_speedup(dense, compact, np.array([3, 9, 20]), (1, 4), seconds=0.05)
        for model in ("teacher", "compact"):
            assert set(result["latency_ms"][model]) == {"batch 1", "batch 4"}
        for name, ratio in result["speedup"].items():
            latency = result["latency_ms"]
            assert ratio == pytest.approx(latency["teacher"][name] / latency["compact"][name], rel=2e-3)
        assert result["measured"]["lengths"] == {"median": 9, "longest": 20}
        assert min(result["measured"]["rounds"].values()) >= MIN_ROUNDS
        json.dumps(result)
        assert "median 9, longest 20" in measurement_note(result)
        assert len(summary_table(result).columns) == 4 + 2 * 2

    def test_training_modes_are_put_back(self):
        dense, compact = make_dense().train(), make_compact()
        measure_speedup(dense, compact, [4], (1,), seconds=0.01)
        assert dense.training and not compact.training

    def test_nothing_is_timed_when_the_fast_path_is_wrong(self, monkeypatch):
        compact = make_compact()
        outputs = iter([torch.ones(3), torch.ones(3) * 1.1])
        monkeypatch.setattr(speedup, "main_output", lambda output: next(outputs))
        monkeypatch.setattr(speedup, "interleaved", lambda *args, **kwargs: pytest.fail("timed"))
        with pytest.raises(RuntimeError, match="differs from its definition"):
            measure_speedup(make_dense(), compact, [4], (1,), seconds=0.01)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_outputs_that_are_no_numbers_do_not_pass(self, value):
        compact = make_compact()
        with torch.no_grad():
            compact.embeddings.word.weight.fill_(value)
        with torch.inference_mode(), pytest.raises(RuntimeError, match="differs"):
            check_against_definition(compact, batch=quantile_batch([4], 1, 9))

    @pytest.mark.parametrize(("lengths", "sizes"), [([], (1,)), ([0], (1,)), ([3], ()), ([3], (0,))])
    def test_bad_arguments_are_refused(self, lengths, sizes):
        with pytest.raises(ValueError, match="positive integers"):
            measure_speedup(make_dense(), make_compact(), lengths, sizes)


@pytest.mark.parametrize("head", ["none", "classification", "question_answering"])
def test_main_output_is_what_the_head_gives(head):
    with torch.inference_mode():
        output = make_compact(head=head)(batch=quantile_batch([4, 6], 2, 9))
    expected = {"none": (10, 30), "classification": (2, 2), "question_answering": (10,)}[head]
    assert main_output(output).shape == expected


def test_work_counts_live_units_only():
    gflop = subjects.own_subject("m", make_compact()).gflop
    attention = 2 * 4 * (8 * 30) + 4 * 7 * 8  # q, k, v and output of one head of 8; scores and mix over 7 tokens
    assert gflop(3, 7) * 1e9 == pytest.approx(3 * 7 * (attention + 4 * 5 * 30))


def test_rows_follow_the_schema_of_result_files():
    timings = {"compact": Timing(0.002, 0.001, 0.003, 9), "dense": Timing(0.008, 0.008, 0.008, 9)}
    latency, throughput = to_rows([Case(4, 32, timings, {"compact": 1.0, "dense": 2.0})])
    keys = ["family", "case", "metric", "unit", "value", "rivals", "floor", "spread"]
    assert list(latency) == list(throughput) == keys
    assert (latency["case"], latency["unit"], latency["value"]) == ("4 x 32", "ms", pytest.approx(2.0))
    assert latency["rivals"] == {"dense": pytest.approx(8.0)} and latency["spread"] == pytest.approx(1.0)
    assert (throughput["value"], throughput["rivals"]["dense"]) == (pytest.approx(2000), pytest.approx(500))


main = bench_command.main
FEW = ["--batch-size", "1", "2", "--seq-len", "6", "--rounds", "3", "--device", "cpu"]


class TestCommand:
    @pytest.fixture(autouse=True)
    def _known_machine(self, monkeypatch):
        monkeypatch.setattr(bench_command, "RIVAL_PAUSE_S", 0.0)
        monkeypatch.setattr(bench_command, "sgemm_gflops", lambda device: 50.0)  # takes half a second for real

    def test_a_run_is_compared_with_its_own_teacher(self, run_dir, tmp_path, capsys):
        target = tmp_path / "bench.json"
        assert main([str(run_dir), *FEW, "--json", str(target)]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "1 x 6" in printed and "2 x 6" in printed and "GFLOP/s" in printed
        result = json.loads(target.read_text())
        assert set(result) == {"machine", "rows", "explained"} and result["machine"]["sgemm_gflops"] == 50.0
        assert len(result["rows"]) == 4
        assert "dense" in result["rows"][0]["rivals"]
        assert [entry["case"] for entry in result["explained"]] == ["1 x 6", "2 x 6"]
        assert [(s["kind"], s["units"]) for s in result["explained"][0]["sublayers"]] == [("attention", 1), ("ffn", 5)]
        assert "bound by" in printed and "total by the sums of the sublayers" in printed
        assert list(tmp_path.iterdir()) == [target]

    def test_the_stock_model_is_a_rival_where_dense_is_its_checkpoint(self, run_dir, hf_dir, capsys):
        assert main([str(run_dir / "model"), *FEW, "--dense", str(hf_dir), "--json", "-"]) == 0
        rivals = json.loads(capsys.readouterr().out)["rows"][0]["rivals"]
        assert {"dense", subjects.HUGGING_FACE} <= set(rivals)

    @pytest.mark.parametrize("engine", [engines.ONNX_RUNTIME, engines.OPENVINO], ids=lambda engine: engine.name)
    @pytest.mark.parametrize("head", ["none", "classification", "question_answering"])
    def test_engines_that_are_installed_run_both_models(
        self, engine, head, run_dir, hf_dir, tmp_path, monkeypatch, capsys
    ):
        for package in engine.needs:
            pytest.importorskip(package)
        monkeypatch.setattr(subjects, "ENGINES", (engine,))
        model = run_dir
        if head != "classification":
            model = tmp_path
            make_compact(head=head).save_pretrained(model)
        assert main([str(model), *FEW, "--dense", str(hf_dir), "--json", "-"]) == 0
        rivals = json.loads(capsys.readouterr().out)["rows"][0]["rivals"]
        assert {f"compact, {engine.name}", f"dense, {engine.name}"} <= set(rivals)

    def test_what_is_left_out_is_said(self, run_dir, monkeypatch, capsys):
        monkeypatch.setattr(engines, "find_spec", lambda name: None)
        assert main([str(run_dir / "model"), *FEW]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        assert "No dense original to compare with: name it with --dense." in printed
        assert "No ONNX Runtime: onnx, onnxruntime not installed (pip install 'cofi-kernels[onnx]')." in printed
        assert "No OpenVINO: onnx, onnxruntime, openvino not installed (pip install 'cofi-kernels[bench]')." in printed

    @pytest.mark.parametrize("head", ["none", "question_answering"])
    def test_every_head_can_be_measured(self, head, hf_dir, tmp_path, capsys):
        make_compact(head=head).save_pretrained(tmp_path)
        assert main([str(tmp_path), *FEW, "--dense", str(hf_dir), "--json", "-"]) == 0
        assert len(json.loads(capsys.readouterr().out)["rows"]) == 4

    def test_a_rival_that_computes_something_else_is_not_timed(self, run_dir, hf_dir, monkeypatch, capsys):
        monkeypatch.setattr(subjects, "relative_difference", lambda found, expected: 0.01)
        assert main([str(run_dir), *FEW, "--dense", str(hf_dir), "--json", "-"]) == 0
        printed = capsys.readouterr()
        assert {*json.loads(printed.out)["rows"][0]["rivals"]} == {"compact, bf16", "compact, int8", "dense"}
        said = " ".join(printed.err.split())
        assert f"No {subjects.HUGGING_FACE} at 1 x 6: " in said and "differs from our engine by 1.0e-02" in said

    def test_a_precision_that_is_off_is_left_out_but_fp32_may_not_be(self, run_dir, monkeypatch, capsys):
        monkeypatch.setitem(speedup.TOLERANCES, "int8", -1.0)
        assert main([str(run_dir), *FEW]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "No compact, int8 at 1 x 6: CompactModel differs from its definition by" in said
        monkeypatch.setitem(speedup.TOLERANCES, "fp32", -1.0)
        with pytest.raises(RuntimeError, match="differs from its definition"):
            main([str(run_dir), *FEW])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--batch-size", "0"], "--batch-size: must be a whole number from 1, got '0'"),
            (["--batch_size", "1", "--seq_len", "25"], "--seq-len must be at most 24"),
            (["--seconds", "0"], "--seconds must be above 0"),
            (["--device", "nowhere"], "--device must be"),
            (["--unknown"], "unrecognized arguments: --unknown (flags: --batch-size, --dense"),
            (["--dense", "./absent"], "absent"),
            (["--json", "/nonexistent/x.json", "--seq-len", "3", "--batch-size", "1", "--rounds", "1"], "--json"),
        ],
    )
    def test_mistakes_are_one_line_and_exit_2(self, run_dir, capsys, arguments, message):
        assert run_command(lambda: main([str(run_dir), *arguments])) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert message in error

    def test_no_model_is_a_user_error(self, tmp_path):
        with pytest.raises(UserError):
            main([str(tmp_path)])
