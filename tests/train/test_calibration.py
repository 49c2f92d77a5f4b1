"""Correcting what a profile misses: what runs deliver, keep and leave out, on machines that are made up."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cofi import CompactModel
from cofi.masks import Gates
from cofi.measure.rate import undisturbed_gflops
from cofi.measure.speedup import measure_ratio
from cofi.models import from_lists
from cofi.prune import compact
from cofi.report.tables import speedup_note
from cofi.report.values import show_ratio
from cofi.train.__main__ import main
from cofi.train.calibration import CORRECTIONS
from cofi.train.checkpoint import load_checkpoint
from cofi.train.deployment import TOLERANCE
from cofi.train.rundir import RunDirectory
from tests.killed import Killed, killed_when
from tests.tiny_profile import SHAPE, structure_of, timed_by, tiny_profile, towards
from tests.train.processes import run_together, whole_command, without_measuring
from tests.train.test_run import read_lines, without_times

MEASURE = "cofi.train.deployment.measure_ratio"
REAL_SECONDS = 0.2


def slow_call(ms: float) -> float:
    """A call costs what no sublayer does: at a speedup of 3 some 15 % of the compact model's time."""
    return ms + 0.1


@pytest.fixture
def flags(flags, tmp_path) -> list[str]:
    return towards(flags, tmp_path)


@pytest.fixture(autouse=True)
def _slow_call(monkeypatch):
    monkeypatch.setattr(MEASURE, timed_by(slow_call))
    monkeypatch.setattr("cofi.measure.rate.PATIENCE", 1)  # a made-up profile knows nothing of this machine's rate


def result_of(run: Path) -> dict:
    return json.loads((run / "result.json").read_text())


def calibrations(run: Path) -> list[dict]:
    return [row for row in read_lines(run / "metrics.jsonl") if row["type"] == "calibration"]


def models_equal(first: Path, second: Path) -> bool:
    states = [CompactModel.from_pretrained(run / "model").state_dict() for run in (first, second)]
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][n], states[1][n]) for n in states[0])


def test_a_run_delivers_the_speedup_that_was_asked_for(flags, tmp_path, capsys):
    assert main(flags) == 0
    run = tmp_path / "run"
    result = result_of(run)
    found = result["target_speedup"]
    rounds, chosen = found["calibration"]["rounds"], found["calibration"]["chosen"]
    assert chosen > 0 and rounds[0]["measured"] < 3 * (1 - TOLERANCE)
    assert found["measured"] == pytest.approx(3, rel=TOLERANCE)
    assert found["measured"] == rounds[chosen]["measured"] and found["predicted"] == rounds[chosen]["predicted"]
    assert result["target_reached"] is True
    names = (
        "round",
        "requested",
        "aim",
        "predicted",
        "measured",
        "uncertainty",
        "timed",
        "gflops",
        "disturbed",
        "estimate",
    )
    assert [{name: row[name] for name in names} for row in calibrations(run)] == rounds
    words = " ".join(capsys.readouterr().err.split())
    assert words.count("calibration: asked 3x, measured ") == len(rounds)
    assert f"corrected from {show_ratio(rounds[0]['measured'])} by the profile alone" in speedup_note(result)
    assert "corrected from" in (run / "report.html").read_text()
    assert result["seconds"]["calibration"] >= 0


def test_what_is_delivered_is_the_masked_model_that_was_timed(flags, tmp_path):
    assert main([*flags, "--finetune-epochs", "0"]) == 0
    run = RunDirectory(tmp_path / "run")
    state = load_checkpoint(run.checkpoints / "best_prune.pt") | load_checkpoint(run.calibration)
    student = CompactModel.from_pretrained(run.teacher)
    student.load_state_dict(state["model"])
    gates = Gates(SHAPE, "all", rounding="threshold", seed=0)
    gates.load_state_dict(state["gates"])
    calibration = state["calibration"]
    assert state["shifts"] == calibration["rounds"][calibration["chosen"]]["shifts"]
    masks = gates.deterministic(state["shifts"])
    delivered = CompactModel.from_pretrained(run.model)
    structure = masks.structure(SHAPE)
    assert structure == structure_of(delivered) and structure.to_dict() == result_of(run.root)["structure"]
    batch = from_lists([[2, 5, 6, 7, 3], [2, 9, 3]])
    with torch.inference_mode():
        masked, small = student.eval()(batch=batch, masks=masks).logits, delivered.eval()(batch=batch).logits
        torch.testing.assert_close(small, masked, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(compact(student, masks)(batch=batch).logits, small)
    result = result_of(run.root)
    assert result["masked_score"] == state["score"] == result["compact_score"]


def stopped(*args, **kwargs):
    raise Killed


class TestResumed:
    """Where pruning hands on its last state, as it never came to the target, and where it has a best one."""

    @pytest.fixture(params=["last", "best"])
    def flags(self, flags, request) -> list[str]:
        return flags if request.param == "last" else [*flags, "--sparsity-epsilon", "0.4"]

    @pytest.fixture
    def whole(self, flags, run_once) -> Path:
        return run_once(flags)

    def assert_same(self, run: Path, whole: Path) -> None:
        rows = [without_times(read_lines(path / "metrics.jsonl")) for path in (run, whole)]
        assert rows[0] == rows[1] and models_equal(run, whole)
        assert calibrations(whole) and len(calibrations(run)) == len(calibrations(whole))

    def test_in_finetuning_it_cuts_the_same_structure_and_measures_nothing(self, flags, whole, tmp_path, monkeypatch):
        with killed_when(lambda phase_loop, position: phase_loop.phase == "finetune" and position.phase_step == 2):
            main([*flags, "--save-seconds", "0"])
        monkeypatch.setattr(MEASURE, lambda *_, **__: pytest.fail("measured"))
        assert main(["--output", str(tmp_path / "run"), "--resume", "--measure-seconds", "0"]) == 0
        self.assert_same(tmp_path / "run", whole)
        rounds = [result_of(run)["target_speedup"]["calibration"] for run in (tmp_path / "run", whole)]
        assert rounds[0] == rounds[1]

    def test_before_the_first_checkpoint_after_it(self, flags, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("cofi.train.pipeline.run_finetune", stopped)
            main(flags)
        monkeypatch.setattr(MEASURE, lambda *_, **__: pytest.fail("measured"))
        assert main(["--output", str(tmp_path / "run"), "--resume", "--measure-seconds", "0"]) == 0
        self.assert_same(tmp_path / "run", whole)

    def test_in_the_middle_of_it(self, flags, whole, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(MEASURE, stopped)
            main(flags)
        assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0
        self.assert_same(tmp_path / "run", whole)

    def test_a_signal_ends_it_after_a_round(self, flags, whole, tmp_path, monkeypatch):
        measured = []

        def interrupted(*args, **kwargs):
            measured.append(1)
            os.kill(os.getpid(), signal.SIGINT)
            return timed_by(slow_call)(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(MEASURE, interrupted)
            assert main(flags) == 128 + signal.SIGINT
        assert measured == [1]
        assert not RunDirectory(tmp_path / "run").calibration.exists()
        assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0
        self.assert_same(tmp_path / "run", whole)

    def test_a_run_that_left_it_out_stays_as_it_was_cut(self, flags, tmp_path, monkeypatch):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr("cofi.train.pipeline.run_finetune", stopped)
            main([*flags, "--measure-seconds", "0"])
        assert main(["--output", str(tmp_path / "run"), "--resume", "--measure-seconds", "1"]) == 0
        found = result_of(tmp_path / "run")["target_speedup"]
        assert found["calibration"] == {"rounds": [], "left_out": "--measure-seconds is 0"}
        assert found["predicted"] == pytest.approx(3, rel=0.02) and found["measured"] < 3 * (1 - TOLERANCE)


@pytest.mark.parametrize(
    ("extra", "changes", "reason"),
    [
        (["--measure-seconds", "0"], {}, "--measure-seconds is 0"),
        (["--constraint", "expected"], {}, "--constraint expected does not hold"),
        ([], {"machine": {"device": "cpu", "cpu": "Another CPU"}}, "the profile is of another machine"),
    ],
    ids=["no time", "expected", "another machine"],
)
def test_where_it_makes_no_sense_it_is_left_out_and_said(flags, tmp_path, capsys, monkeypatch, extra, changes, reason):
    tiny_profile(**changes).save(tmp_path / "cpu.json")
    monkeypatch.setattr("cofi.train.calibration.measure_as_profiled", lambda *_: pytest.fail("measured"))
    assert main([*flags, *extra]) == 0
    assert f"calibration: left out, {reason}" in " ".join(capsys.readouterr().err.split())
    found = result_of(tmp_path / "run")["target_speedup"]["calibration"]
    assert found["rounds"] == [] and reason in found["left_out"] and not calibrations(tmp_path / "run")


def test_what_cannot_be_reached_is_said_and_ends(flags, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(MEASURE, timed_by(lambda ms: ms + 1.0))
    assert main(flags) == 0
    result = result_of(tmp_path / "run")
    rounds = result["target_speedup"]["calibration"]["rounds"]
    assert 1 <= len(rounds) <= 1 + CORRECTIONS and result["target_reached"] is False
    assert result["target_speedup"]["measured"] == max(found["measured"] for found in rounds)
    assert "calibration: no structure came closer than" in " ".join(capsys.readouterr().err.split())


def test_a_machine_in_another_state_than_the_profile_s_corrects_nothing(flags, tmp_path, capsys, monkeypatch):
    exact = timed_by(slow_call)
    monkeypatch.setattr(MEASURE, lambda *args, **kw: replace(exact(*args, **kw), disturbed=True, gflops=31.0))
    assert main(flags) == 0
    result = result_of(tmp_path / "run")
    found = result["target_speedup"]
    (row,) = found["calibration"]["rounds"]
    assert row["disturbed"] and row["gflops"] == 31.0 and row["measured"] < 3 * (1 - TOLERANCE)
    assert found["predicted"] == pytest.approx(3, rel=TOLERANCE) and found["disturbed"] is True
    assert result["target_reached"] is True  # by the profile
    assert "calibration: not corrected: the speedup is the profile's; the machine is in use" in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_one_measurement_has_corrected_stays_where_the_next_is_disturbed(flags, tmp_path, capsys, monkeypatch):
    exact, made = timed_by(slow_call), []

    def measured(*args, **kw):
        made.append(exact(*args, **kw))
        return made[-1] if len(made) == 1 else replace(made[-1], value=9.0, disturbed=True, gflops=31.0)

    monkeypatch.setattr(MEASURE, measured)
    assert main(flags) == 0
    result = result_of(tmp_path / "run")
    found = result["target_speedup"]["calibration"]
    assert found["chosen"] == 1 and [row["disturbed"] for row in found["rounds"]] == [False, True]
    assert made[-1].value == pytest.approx(3, rel=TOLERANCE) and result["target_reached"] is True
    said = " ".join(capsys.readouterr().err.split())
    assert "calibration: corrected by the measurement before; the machine is in use" in said


def test_on_a_real_clock_it_ends(flags, tmp_path, monkeypatch):
    """What this machine's time is of a model of 2 layers of 32 dims is of no matter here."""
    monkeypatch.setattr(MEASURE, measure_ratio)
    tiny_profile(gflops=undisturbed_gflops(torch.device("cpu"), 0.5)).save(tmp_path / "cpu.json")
    assert main([*flags, "--measure-seconds", str(REAL_SECONDS)]) == 0
    found = result_of(tmp_path / "run")["target_speedup"]
    assert 1 <= len(found["calibration"]["rounds"]) <= 1 + CORRECTIONS
    for row in found["calibration"]["rounds"]:
        assert row["measured"] > 0 and row["uncertainty"] >= 0 and row["timed"] >= 3
    assert found["measured"] > 0 and set(found["measured_ms"]) == {"teacher", "compact"}


def main_one_measures(flags: list[str]) -> int:
    """A run in which only the main process may take a time."""
    patch = pytest.MonkeyPatch()
    rank = int(os.environ["RANK"])
    patch.setattr(MEASURE, timed_by(slow_call) if rank == 0 else lambda *_, **__: pytest.fail("measured"))
    without_measuring(patch)
    return whole_command(flags)


def test_the_main_process_measures_for_all(flags, tmp_path):
    tiny_profile(threads=1).save(tmp_path / "cpu.json")
    ended = run_together(main_one_measures, flags, folder=tmp_path)
    assert ended.codes == [0, 0], ended.err
    found = result_of(tmp_path / "run")["target_speedup"]
    assert found["calibration"]["chosen"] > 0 and found["measured"] == pytest.approx(3, rel=TOLERANCE)
    assert len(calibrations(tmp_path / "run")) == len(found["calibration"]["rounds"])
