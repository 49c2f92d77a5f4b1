"""`python -m cofi.bench`: what is compared, checked first, and written."""

from __future__ import annotations

import functools
import gc
import json
from pathlib import Path

import pytest
import torch

from cofi.bench import __main__ as bench_command
from cofi.bench import engines, rates, subjects
from cofi.bench.results import Case, to_rows
from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.measure import rate, speedup, timing
from cofi.measure.timing import Timing
from tests.measure.encoders import SIZES, make_compact, make_dense


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
        """Turns are short, few and without pauses: these tests are about what is said, not how exactly."""
        monkeypatch.setattr(bench_command, "RIVAL_PAUSE_S", 0.0)
        monkeypatch.setattr(bench_command, "undisturbed_gflops", lambda device, seconds: 50.0)  # seconds for real
        monkeypatch.setattr(rate, "SLOWER", 1.0)
        monkeypatch.setitem(rate.SIZES, "cpu", 16)
        monkeypatch.setattr(timing, "TURN_S", 0.0)
        monkeypatch.setattr(rates, "TURNS", 1)
        monkeypatch.setattr(rates, "turn", functools.partial(timing.turn, pause_s=0.0))
        gc.freeze()  # timing begins with a collection: half a second over all that tests have imported
        yield
        gc.unfreeze()

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

    def test_what_was_timed_beside_other_work_is_said(self, run_dir, monkeypatch, capsys):
        monkeypatch.setattr(rate, "SLOWER", -1e9)
        assert main([str(run_dir), *FEW, "--seconds", "0.01"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "1 x 6 was timed beside other work, at " in said and "2 x 6 was timed beside" in said

    def test_the_stock_model_is_a_rival_where_dense_is_its_checkpoint(self, run_dir, hf_dir, capsys):
        assert main([str(run_dir / "model"), *FEW, "--dense", str(hf_dir), "--json", "-"]) == 0
        rivals = json.loads(capsys.readouterr().out)["rows"][0]["rivals"]
        assert {"dense", subjects.HUGGING_FACE} <= set(rivals)

    @pytest.mark.parametrize("engine", [engines.ONNX_RUNTIME, engines.OPENVINO], ids=lambda engine: engine.name)
    @pytest.mark.parametrize(
        "head", ["none", "classification", "token_classification", "question_answering", "embedding"]
    )
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
        assert "No ONNX Runtime: onnx, onnxruntime not installed (pip install onnx onnxruntime)." in printed
        assert "onnx, onnxruntime, openvino not installed (pip install onnx onnxruntime openvino)." in printed

    @pytest.mark.parametrize("head", ["none", "token_classification", "question_answering", "embedding"])
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
