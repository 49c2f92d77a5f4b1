"""Whole runs on a tiny checkpoint: what they leave, that they can be continued, how they fail."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
import torch
import yaml

from cofi import CompactModel
from cofi.cli import run as run_command
from cofi.masks import SparsityRamp, SparsityStairs
from cofi.train import loop, prior, scoring
from cofi.train.__main__ import main
from cofi.train.monitor import truncate
from tests.killed import killed_after

PRIOR = ["--gate-prior", "fisher", "--rounding", "threshold", "--reg-learning-rate", "0.01"]


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows]


def test_a_run_leaves_everything_it_promises(flags, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()  # with its figures
    assert main([*flags, "--measure-seconds", "0.2"]) == 0
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    for name in (
        "teacher_score",
        "masked_score",
        "compact_score",
        "expected_sparsity",
        "sparsity",
        "structure",
        "speedup",
    ):
        assert name in result
    assert yaml.safe_load((run / "config.yaml").read_text())["sparsity"] == 0.6
    rows = read_lines(run / "metrics.jsonl")
    assert {row["phase"] for row in rows} == {"teacher", "distil", "prune", "finetune"}
    model = CompactModel.from_pretrained(run / "model")
    assert sum(p.numel() for p in model.layers.parameters()) == result["params_after"] < result["params_before"]
    assert (run / "report.html").stat().st_size > 10_000
    assert (run / "model" / "tokenizer.json").exists()
    assert "compact" in capsys.readouterr().out


def test_a_share_of_an_epoch_is_a_step_at_least(flags, tmp_path):
    """4 steps are an epoch: a teacher of none would be a random head, gates of none would never be set."""
    few = {"teacher-epochs": 0.1, "distil-epochs": 0, "prune-epochs": 0.1, "sparsity-warmup-epochs": 0.05}
    given = [word for name, value in few.items() for word in (f"--{name}", str(value))]
    assert main([*flags, *PRIOR, "--gate-prior-rounds", "1", *given]) == 0
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    steps = [(row["phase"], row["phase_step"]) for row in rows if row["type"] == "step"]
    assert steps[:2] == [("teacher", 1), ("prune", 1)] and "distil" not in dict(steps)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--gate-prior", "none", "--mask-kinds", "head,mha"], "--sparsity must be at most 0.588"),
        (["--recipe", "gradual", "--mask-kinds", "ffn"], "--sparsity must be at most 0.4506"),
        ([*PRIOR[:2], "--mask-kinds", "head,ffn", *PRIOR[2:]], "--sparsity must be at most 0.5"),  # ffn is not set
    ],
    ids=" ".join,
)
def test_what_the_masks_cannot_remove_is_refused_at_once(flags, tmp_path, capsys, given, words):
    assert run_command(lambda: main([*flags, *given])) == 2
    said = capsys.readouterr().err
    assert words in said and f"with --mask-kinds {given[3]} and --gate-prior " in said and said.endswith("got 0.6\n")
    assert not (tmp_path / "run").exists()


def test_lines_after_the_checkpoint_are_dropped_and_those_that_a_power_cut_lost_leave_no_hole(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for written, left in ((b"a\nbb\nccc\n", b"a\nbb\n"), (b"a\nb", b"a\n"), (b"", b"")):
        file.write_bytes(written)
        truncate(file, 5)
        assert file.read_bytes() == left


# phases end after steps 8, 12, 24 and 28; 0.95 is out of reach in so few, so the last masked state is taken
@pytest.mark.parametrize(
    ("stop_at", "sparsity"), [(3, 0.6), (8, 0.6), (9, 0.6), (13, 0.6), (24, 0.6), (24, 0.95), (26, 0.6)], ids=str
)
def test_a_killed_run_resumes_bit_for_bit(flags, run_once, tmp_path, stop_at, sparsity):
    flags = [*flags, "--sparsity", str(sparsity)]
    whole, broken = run_once(flags), tmp_path / "broken"
    with killed_after(stop_at):
        main([*flags, "--output", str(broken), "--save-seconds", "0"])
    assert main(["--output", str(broken), "--resume"]) == 0

    assert without_times(read_lines(broken / "metrics.jsonl")) == without_times(read_lines(whole / "metrics.jsonl"))
    models = [CompactModel.from_pretrained(run / "model").state_dict() for run in (whole, broken)]
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_saves_and_exits(flags, tmp_path, monkeypatch, capsys, signum):
    after_step = loop.PhaseLoop._after_step

    def interrupt(self, position, *args):
        if position.global_step == 5:
            os.kill(os.getpid(), signum)
        after_step(self, position, *args)

    monkeypatch.setattr(loop.PhaseLoop, "_after_step", interrupt)
    assert main(flags) == 128 + signum
    said = capsys.readouterr().err
    assert "--resume" in said and said.count(f"{signum.name}: stopping after this step") == 1
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0


def test_the_target_rises_along_the_ramp_that_was_asked_for(flags, tmp_path):
    run = tmp_path / "run"
    with killed_after(15):  # pruning starts after step 12, and ramps up in 4
        main([*flags, "--gate-prior", "none", "--sparsity-ramp", "cubic", "--save-seconds", "0"])
    assert main(["--output", str(run), "--resume"]) == 0
    rows = [row for row in read_lines(run / "metrics.jsonl") if row["phase"] == "prune" and "target_sparsity" in row]
    ramp = SparsityRamp(0.6, warmup_steps=4, shape="cubic")
    steps = {row["step"]: row["target_sparsity"] for row in rows}
    assert [steps[step] for step in range(13, 19)] == pytest.approx([ramp(step) for step in range(6)])


def test_gates_that_start_on_target_stay_there(flags, tmp_path):
    flags = [*flags, *PRIOR, "--gate-prior-rounds", "1"]
    with killed_after(15):
        main([*flags, "--save-seconds", "0"])
    assert main(["--output", str(tmp_path / "run"), "--resume"]) == 0
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if row["phase"] == "prune"]
    steps = [row for row in rows if "target_sparsity" in row]
    assert [row["target_sparsity"] for row in steps] == [pytest.approx(0.6)] * len(steps)
    assert steps[0]["kept_sparsity"] == pytest.approx(
        0.6, abs=0.1
    )  # as near as a head allows; without the prior near 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())["sparsity"] == pytest.approx(0.6, abs=0.01)


def test_gates_are_set_again_in_leaps(flags, tmp_path):
    """In a run that was stopped right before a leap to the bit as in one that was not."""
    flags = [*flags, *PRIOR, "--gate-prior-rounds", "3", "--save-seconds", "0"]
    assert main([*flags, "--output", str(tmp_path / "whole")]) == 0
    with killed_after(14):  # pruning starts after step 12: this is before its third, where the second leap is
        main([*flags, "--output", str(tmp_path / "broken")])
    assert main(["--output", str(tmp_path / "broken"), "--resume"]) == 0
    stairs = SparsityStairs(0.6, warmup_steps=4, rounds=3)
    for name in ("whole", "broken"):
        rows = [row for row in read_lines(tmp_path / name / "metrics.jsonl") if row["phase"] == "prune"]
        steps = {row["step"]: row for row in rows if "target_sparsity" in row}
        for step in range(6):
            row = steps[13 + step]
            assert row["target_sparsity"] == pytest.approx(stairs(step))
            assert row["kept_sparsity"] == pytest.approx(stairs(step), abs=0.1)
    models = [CompactModel.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "broken")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_units_are_scored_again_where_none_is_left(flags, tmp_path):
    """Of sublayers that are cut nothing is computed, so no gradient comes from there."""
    assert main([*flags, *PRIOR, "--gate-prior-rounds", "3", "--sparsity", "0.999"]) == 0
    structure = json.loads((tmp_path / "run" / "result.json").read_text())["structure"]
    assert sum(structure["heads"]) == 0 and sum(structure["intermediate"]) <= 1


def test_rows_are_scored_together_up_to_a_number_of_tokens(monkeypatch):
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 8)
    assert scoring.together([4, 0, 2, 9, 1, 3], [3, 5, 1, 9, 7, 2]) == [[4, 0], [2], [9], [1], [3]]
    assert scoring.together([], []) == []


@pytest.mark.parametrize("leap", [1, 2])
def test_a_signal_while_units_are_scored_stops_at_once(flags, tmp_path, monkeypatch, leap):
    """And they are scored once more when the run goes on, which then ends as one that was not stopped."""
    flags = [*flags, *PRIOR, "--gate-prior-rounds", "2"]
    monkeypatch.setattr(scoring, "TOKENS_AT_ONCE", 16)
    assert main([*flags, "--output", str(tmp_path / "whole")]) == 0
    scored: list[int] = []
    given = prior.evidence

    def interrupted(session, *args):
        found = given(session, *args)

        def gradients():
            scored.append(0)
            for each in found.gradients():
                scored[-1] += 1
                if len(scored) == leap and scored[-1] == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                yield each

        return dataclasses.replace(found, gradients=gradients)

    monkeypatch.setattr(prior, "evidence", interrupted)
    assert main([*flags, "--output", str(tmp_path / "broken")]) == 128 + signal.SIGTERM
    assert len(scored) == leap and scored[-1] == 3
    monkeypatch.setattr(prior, "evidence", given)
    assert main(["--output", str(tmp_path / "broken"), "--resume"]) == 0
    rows = [without_times(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "broken")]
    assert rows[0] == rows[1]
    models = [CompactModel.from_pretrained(tmp_path / name / "model").state_dict() for name in ("whole", "broken")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_two_runs_of_one_seed_are_the_same(flags, tmp_path):
    for name in ("a", "b"):
        main([*flags, "--output", str(tmp_path / name)])
    rows = [without_times(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("a", "b")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("kinds", ["head", "int", "hidden", "mha,ffn", "head,int,mha,ffn", "all"])
def test_every_mask_kind_trains_and_exports(flags, tmp_path, kinds):
    prior = [] if {"head", "int", "all"} & set(kinds.split(",")) else ["--gate-prior", "none"]  # no scores of others
    assert main([*flags, "--mask-kinds", kinds, "--sparsity", "0.3", *prior]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.parametrize("matching", ["fixed", "nearest", "nearest_in_order", "random_in_order", "random_window"])
def test_every_matching_strategy_trains(flags, matching):
    assert main([*flags, "--matching", matching, "--finetune-epochs", "0"]) == 0


def test_without_distillation(flags, tmp_path):
    assert main([*flags, "--no-distill"]) == 0
    rows = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert not any("layer_loss" in row for row in rows)


def test_a_finished_run_serves_as_model_and_teacher(flags, tmp_path):
    assert main(flags) == 0
    teacher = str(tmp_path / "run" / "teacher")
    assert main([*flags, "--model", teacher, "--output", str(tmp_path / "second")]) == 0
    phases = {row["phase"] for row in read_lines(tmp_path / "second" / "metrics.jsonl")}
    assert "teacher" not in phases


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--task", "nothing"], "nothing"),
        (["--model", "no/such-directory-or-model"], "no/such-directory-or-model"),
        (["--label-column", "colour"], "colour"),
        (["--device", "cuda:99"], "--device"),
        (["--teacher-epochs", "0"], "--teacher-epochs"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(flags, tmp_path, capsys, extra, words):
    assert run_command(lambda: main([*flags, *extra])) == 2
    error = capsys.readouterr().err
    assert "error:" in error and words in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_way_is_not_touched(flags, tmp_path, capsys):
    assert main(flags) == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert run_command(lambda: main(flags)) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_a_run_may_end_with_its_teacher_and_leaves_one_to_distil_from(flags, tmp_path):
    assert main([*flags, "--teacher-only"]) == 0
    run = tmp_path / "run"
    result = json.loads((run / "result.json").read_text())
    assert {row["phase"] for row in read_lines(run / "metrics.jsonl")} == {"teacher"}
    assert result["seconds"].keys() == {"teacher"} and "compact_score" not in result
    second = [*flags, "--output", str(tmp_path / "second"), "--teacher", str(run / "teacher")]
    assert main([*second, "--student-init", "teacher"]) == 0
    assert json.loads((tmp_path / "second" / "result.json").read_text())["teacher_score"] == result["teacher_score"]


def test_no_time_for_measuring_leaves_the_speed_out(flags, tmp_path):
    assert main([*flags, "--measure-seconds", "0"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "speedup" not in result and "compact_score" in result


def test_kept_size_is_delivered_where_that_is_the_constraint(flags, tmp_path):
    assert main([*flags, "--constraint", "kept", "--sparsity", "0.5"]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["constraint"] == "kept" and result["target_reached"]
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    rows = [row for row in read_lines(tmp_path / "run" / "metrics.jsonl") if row["phase"] == "prune"]
    assert all("kept_sparsity" in row for row in rows)
