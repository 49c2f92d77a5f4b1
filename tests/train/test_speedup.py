"""Runs towards a speedup: what they deliver, keep and refuse, on a profile that is made up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import yaml

from cofi import CompactConfig, CompactModel
from cofi.cli import run as run_command
from cofi.machine import machine_info
from cofi.measure.speedup import Ratio
from cofi.profile.profile import read_profile
from cofi.report import write_report
from cofi.report.tables import speedup_note
from cofi.train.__main__ import main
from cofi.train.deployment import TOLERANCE, WITHIN, measure_as_profiled
from cofi.train.rundir import RunDirectory
from tests import tiny_profile
from tests.killed import killed_after
from tests.tiny_profile import SHAPE, timed_by, write_profile


@pytest.fixture
def towards(flags, tmp_path) -> list[str]:
    """Flags of a tiny run towards a speedup of 3."""
    return tiny_profile.towards(flags, tmp_path)


@pytest.fixture(autouse=True)
def _timed_by_the_profile(monkeypatch):
    """No time is taken: the machine is as its profile says."""
    monkeypatch.setattr("cofi.train.deployment.measure_ratio", timed_by())
    monkeypatch.setattr("cofi.measure.rate.PATIENCE", 1)  # a made-up profile knows nothing of this machine's rate


@pytest.mark.parametrize(("recipe", "first"), [("gradual", 1), ("default", 3 ** (1 / 4))])  # in four leaps
def test_the_delivered_structure_has_the_requested_speedup(towards, tmp_path, capsys, recipe, first):
    assert main([*towards, "--recipe", recipe]) == 0
    run = RunDirectory(tmp_path / "run")
    result = json.loads(run.result.read_text())
    found = result["target_speedup"]
    assert found["requested"] == 3 and found["predicted"] == pytest.approx(3, rel=0.05)
    assert found["measured"] > 0 and set(found["measured_ms"]) == {"teacher", "compact"} and found["same_machine"]
    layout = CompactModel.from_pretrained(run.model).layout
    hidden = result["structure"]["hidden"]
    latency = tiny_profile.tiny_profile().latency_model()
    masks = {
        "mha": torch.tensor(layout.mha).float(),
        "ffn": torch.tensor(layout.ffn).float(),
        "head": (torch.arange(4) < torch.tensor(layout.heads)[:, None]).float(),
        "int": (torch.arange(48) < torch.tensor(layout.intermediate)[:, None]).float(),
        "hidden": (torch.arange(32) < hidden).float(),
    }
    assert latency({}).item() / latency(masks).item() == pytest.approx(found["predicted"], rel=1e-4)
    assert result["constraint"] == "kept" and result["target_reached"] and result["target_sparsity"] is None
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    steps = [row for row in rows if row["phase"] == "prune" and row["type"] == "step"]
    assert steps[0]["target_speedup"] == pytest.approx(first) and steps[-1]["target_speedup"] == pytest.approx(3)
    assert all(row["expected_speedup"] > 0.9 and row["kept_speedup"] > 0.9 for row in steps)
    assert read_profile(run.profile) == tiny_profile.tiny_profile()
    assert "Speedup: requested 3.00" in " ".join(capsys.readouterr().out.split())
    page = write_report(run.root).read_text()
    assert "target speedup 3.00" in page and "Speedup: requested 3.00" in page and "target sparsity" not in page


def test_a_profile_of_sequences_that_the_model_cannot_read_is_refused_at_once(flags, tmp_path, capsys):
    flags = tiny_profile.towards(flags, tmp_path, lengths=[4, 33])
    assert run_command(lambda: main(flags)) == 2
    assert "was measured with sequences of up to 33 tokens" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("found", "said", "noted"),
    [
        ({"uncertainty": 0.18}, "known to +-18 % only after 20 rounds", "+-18.0 % (2 sequences"),
        (
            {"disturbed": True, "gflops": 31.0},
            "the machine makes 31 GFLOP/s in a plain product and made 50 when the profile was measured",
            "+-0.2 % beside other work, so not comparable (2 sequences",
        ),
    ],
    ids=["noisy", "disturbed"],
)
def test_a_speedup_measured_beside_other_work_is_said(towards, tmp_path, monkeypatch, capsys, found, said, noted):
    exact = timed_by()
    monkeypatch.setattr("cofi.train.deployment.measure_ratio", lambda *args, **kw: replace(exact(*args, **kw), **found))
    assert main(towards) == 0
    assert said in " ".join(capsys.readouterr().err.split())
    assert noted in speedup_note(json.loads((tmp_path / "run" / "result.json").read_text()))


@pytest.mark.parametrize(("machine", "gflops"), [({}, 50.0), ({"cpu": "Another CPU"}, None)])
def test_rounds_count_at_the_rate_of_the_profile(monkeypatch, machine, gflops):
    asked = {}

    def measured(*args, **kwargs):
        asked.update(kwargs)
        return Ratio(8.0, 0.001, 20, {}, 50.0)

    monkeypatch.setattr("cofi.train.deployment.measure_ratio", measured)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    model = CompactModel(CompactConfig(vocab_size=9, **sizes))
    profile = tiny_profile.tiny_profile(machine=machine_info() | machine)
    said: list[str] = []
    assert measure_as_profiled(profile, model, model, 0.1, said.append).value == 8.0
    assert asked == {"seconds": 0.1, "within": WITHIN, "at_most": TOLERANCE, "gflops": gflops} and not said


def test_the_paper_s_constraint_may_be_asked_for(towards, tmp_path):
    assert main([*towards, "--constraint", "expected"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["constraint"] == "expected" and result["target_speedup"]["requested"] == 3


def test_a_killed_run_goes_on_with_the_profile_it_kept(towards, tmp_path):
    assert main([*towards, "--output", str(tmp_path / "whole")]) == 0
    with killed_after(14):
        main([*towards, "--save-seconds", "0"])
    write_profile(tmp_path, lengths=[7])  # the profile it was started with is another now
    assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0
    whole, resumed = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "run"))
    assert resumed["structure"] == whole["structure"] and resumed["compact_score"] == whole["compact_score"]
    assert resumed["target_speedup"]["batch"] == {"sequences": 2, "longest": 9}
    RunDirectory(tmp_path / "run").profile.unlink()
    RunDirectory(tmp_path / "run").result.unlink()
    with pytest.raises(Exception, match="the latency profile of the run is gone"):
        main(["--output", str(tmp_path / "run"), "--resume"])


def test_a_profile_of_another_machine_is_said(towards, tmp_path, capsys):
    write_profile(tmp_path, machine={"device": "cpu", "cpu": "Another CPU"})
    assert main(towards) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "on another machine than this one (Another CPU)" in printed
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["target_speedup"]["same_machine"] is False
    assert "another machine than the profile" in speedup_note(result)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--sparsity", "0.5"], "--target-speedup takes the place of --sparsity"),
        (["--target-speedup", "0.5"], "--target-speedup must be in [1, inf)"),
        (["--target-speedup", "1000"], "speedup must be at least 1 and below"),
        (["--device-profile", "absent"], "neither absent nor profiles/absent.json is there"),
        (["--start-sparsity", "0.8"], "--start-sparsity must not exceed what --target-speedup removes (0.6667)"),
        (["--constraint", "both"], "--constraint"),
        (["--method", "fisher"], "--target-speedup is for --method cofi, got --method fisher"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line_before_anything_is_written(towards, tmp_path, capsys, extra, words):
    assert run_command(lambda: main([*towards, *extra])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": replace(SHAPE, d_hidden=32, d_int=48, n_heads=4, head_dim=16)}, "16 dims a head (tiny)"),
        ({"threads": 99}, "measured with --threads 99, this run has"),
    ],
    ids=["head size", "threads"],
)
def test_a_profile_of_another_setting_is_refused(towards, tmp_path, capsys, changes, words):
    write_profile(tmp_path, **changes)
    assert run_command(lambda: main(towards)) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--target-speedup", "--device-profile"])
def test_the_two_flags_go_together(towards, capsys, flag):
    index = towards.index(flag)
    assert run_command(lambda: main(towards[:index] + towards[index + 2 :])) == 2
    assert "--target-speedup and --device-profile must be given together" in capsys.readouterr().err


def test_the_settings_are_kept(towards, tmp_path):
    assert main(towards) == 0
    kept = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (kept["target_speedup"], kept["constraint"]) == (3.0, "kept")
