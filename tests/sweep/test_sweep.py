"""Whole sweeps on a tiny checkpoint: what they leave, that they go on after any end, and that a failure stays alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys

import pytest
import torch

from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.sweep import running
from cofi.sweep.__main__ import main
from cofi.sweep.results import read_summary
from cofi.sweep.store import check_settings
from cofi.train import loop, pipeline
from cofi.train.config import TrainConfig
from cofi.train.rundir import RunDirectory
from tests.tiny_sweep import points, tiny_sweep


def count_steps(monkeypatch) -> list[str]:
    """Phases of all steps that are taken from here on."""
    taken: list[str] = []
    after_step = loop.PhaseLoop._after_step

    def count(self, *args):
        taken.append(self.phase)
        after_step(self, *args)

    monkeypatch.setattr(loop.PhaseLoop, "_after_step", count)
    return taken


def test_a_sweep_leaves_table_plots_and_small_run_directories(checkpoint, two_tasks, tmp_path, capsys):
    words = tiny_sweep(checkpoint, two_tasks, tmp_path / "sweep")
    results = tmp_path / "docs" / "tiny"
    assert main([*words, "--seeds", "1", "2", "--results", str(results)]) == 0
    found = points(tmp_path / "sweep")
    assert set(found) == {f"{task}-default-s30-seed{seed}" for task in ("animals", "beasts") for seed in (1, 2)}
    for name, point in found.items():
        assert point["status"] == "done"
        run = tmp_path / "sweep" / "points" / name / "run"
        assert {path.name for path in run.iterdir()} >= {"model", "result.json", "report.html", "metrics.jsonl"}
        assert not (run / "checkpoints").exists() and not (run / "teacher").exists()
        assert json.loads((run / "result.json").read_text())["compact_score"] == point["score"]
        assert "speedup" not in point
    assert sorted(os.listdir(tmp_path / "sweep" / "teachers")) == [".lock", "animals-seed57", "beasts-seed57"]
    table = (results / "table.md").read_text()
    assert (tmp_path / "sweep" / "table.md").read_text() in capsys.readouterr().out
    assert "## Scores of all tasks" in table and "## animals" in table and "1 2" in table
    assert (results / "size.png").read_bytes()[:4] == b"\x89PNG"
    assert str(tmp_path) not in table + (results / "sweep.json").read_text()


def test_results_grow_by_another_sweep(one, words, whole, tmp_path, monkeypatch):
    results = tmp_path / "results"
    assert main([*one, "--results", str(results)]) == 0
    assert main(["--output", str(whole), "--results", str(results)]) == 0
    assert set(points(results)) == {"animals-default-s30-seed1", "beasts-default-s30-seed1"}
    assert all("machine" in point and point["settings"]["prune_epochs"] == 2 for point in points(results).values())
    assert len(read_summary(results)["commands"]) == 3
    again = [*one, "--seeds", "2", "--finetune-epochs", "0.5", "--output", str(tmp_path / "another")]
    taken = count_steps(monkeypatch)
    with pytest.raises(UserError, match="animals-default-s30-seed1 with finetune_epochs 1.0, but animals-default"):
        main([*again, "--results", str(results)])
    assert not taken  # refused before anything ran


def test_points_of_several_teachers_are_not_published_as_one_group(one, tmp_path, monkeypatch):
    taken = count_steps(monkeypatch)
    results = tmp_path / "results"
    assert main([*one, "--seeds", "1", "2", "--teacher-seed", "each"]) == 0
    taken.clear()
    message = "seed1 with a teacher of seed 1, but animals-default-s30-seed3 has a teacher of seed 57"
    with pytest.raises(UserError, match=message):
        main([*one, "--seeds", "3", "--results", str(results)])
    assert not taken  # refused before anything ran
    assert main([*one, "--seeds", "3"]) == 0
    with pytest.raises(UserError, match=message):
        main([*one[:2], "--results", str(results)])


def test_all_points_of_a_task_learn_from_one_teacher(one, tmp_path, monkeypatch):
    taken = count_steps(monkeypatch)
    assert main([*one, "--variants", "default", "no-hidden"]) == 0
    assert taken.count("teacher") == 4  # 64 rows in batches of 16
    assert len({point["teacher_score"] for point in points(tmp_path / "sweep").values()}) == 1


def test_a_finished_sweep_does_nothing_more_and_grows_by_an_axis(one, tmp_path, monkeypatch):
    assert main(one) == 0
    taken = count_steps(monkeypatch)
    assert main(one) == 0
    assert taken == []
    assert main([*one, "--seeds", "1", "2"]) == 0
    assert set(taken) == {"prune", "finetune"} and len(taken) == 8 + 4
    assert len(points(tmp_path / "sweep")) == 2


class Killed(BaseException):
    """As SIGKILL: nothing of the program's own runs after it."""


@pytest.mark.parametrize("stop_at", [2, 6, 14, 30], ids=["teacher", "prune", "finetune", "another-task"])
def test_a_killed_sweep_ends_as_one_that_was_not(words, whole, tmp_path, monkeypatch, stop_at):
    steps = 0
    after_step = loop.PhaseLoop._after_step

    def die(self, *args):
        nonlocal steps
        after_step(self, *args)
        steps += 1
        if steps == stop_at:
            raise Killed

    monkeypatch.setattr(loop.PhaseLoop, "_after_step", die)
    with pytest.raises(Killed):
        main([*words, "--save-seconds", "0"])
    monkeypatch.setattr(loop.PhaseLoop, "_after_step", after_step)
    taken = count_steps(monkeypatch)
    assert main([*words, "--save-seconds", "0"]) == 0
    assert len(taken) == 2 * (4 + 8 + 4) - stop_at  # no step is taken twice
    names = ("status", "score", "masked_score", "teacher_score", "sparsity", "structure")
    both = [points(folder) for folder in (whole, tmp_path / "sweep")]
    assert all(both[0][point][name] == both[1][point][name] for point in both[0] for name in names)


def test_a_directory_whose_run_had_not_begun_is_no_hindrance(one, tmp_path):
    for place in ("points/animals-default-s30-seed1/run", "teachers/animals-seed57"):
        (tmp_path / "sweep" / place / "checkpoints").mkdir(parents=True)
        (tmp_path / "sweep" / place / ".lock").touch()
    assert main(one) == 0


def test_a_signal_stops_the_sweep_and_says_how_to_go_on(one, monkeypatch, capsys):
    after_step = loop.PhaseLoop._after_step

    def interrupt(self, position, *args):
        if self.phase == "prune":
            os.kill(os.getpid(), signal.SIGTERM)
        after_step(self, position, *args)

    monkeypatch.setattr(loop.PhaseLoop, "_after_step", interrupt)
    assert main(one) == 128 + signal.SIGTERM
    assert "Give the same command again" in capsys.readouterr().err
    monkeypatch.setattr(loop.PhaseLoop, "_after_step", after_step)
    assert main(one) == 0


@pytest.mark.parametrize(
    ("folder", "status", "steps"),
    [("teachers/animals-seed57/teacher", "waiting", 8 + 4), ("points/animals-default-s30-seed1/run/model", "done", 0)],
    ids=["teacher", "point"],
)
def test_a_signal_that_a_run_ends_in_stops_the_sweep_after_it(
    words, tmp_path, monkeypatch, capsys, folder, status, steps
):
    save_model = pipeline.save_model

    def interrupt(model, tokenizer, where):
        if where == tmp_path / "sweep" / folder:
            os.kill(os.getpid(), signal.SIGINT)
        save_model(model, tokenizer, where)

    monkeypatch.setattr(pipeline, "save_model", interrupt)
    assert main(words) == 128 + signal.SIGINT
    said = capsys.readouterr().err
    assert said.count("SIGINT: stopping after this step") == 1 and "Give the same command again" in said
    assert (tmp_path / "sweep" / "teachers" / "animals-seed57" / "result.json").is_file()
    found = points(tmp_path / "sweep")
    assert [found[f"{task}-default-s30-seed1"]["status"] for task in ("animals", "beasts")] == [status, "waiting"]
    monkeypatch.setattr(pipeline, "save_model", save_model)
    taken = count_steps(monkeypatch)
    assert main(words) == 0
    assert len(taken) == steps + 4 + 8 + 4  # those of the other task too


def test_a_point_that_fails_after_a_signal_stops_the_sweep_as_well(words, tmp_path, monkeypatch):
    def fail(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        raise UserError("no place for it")

    monkeypatch.setattr(pipeline, "write_result", fail)
    assert main(words) == 128 + signal.SIGTERM
    found = points(tmp_path / "sweep")
    assert found["animals-default-s30-seed1"]["error"] == "no place for it"
    assert found["beasts-default-s30-seed1"]["status"] == "waiting"


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError()], ids=["error", "memory"])
def test_a_point_that_fails_is_noted_and_the_rest_goes_on(words, tmp_path, monkeypatch, error):
    real = running.train

    def fail(config, run, **more):
        if config.task == "animals" and not config.teacher_only:
            raise error
        return real(config, run, **more)

    monkeypatch.setattr(running, "train", fail)
    assert main(words) == 1
    found = points(tmp_path / "sweep")
    assert found["beasts-default-s30-seed1"]["status"] == "done"
    failed = found["animals-default-s30-seed1"]
    assert failed["status"] == "failed" and type(error).__name__ in failed["error"]
    assert "Traceback" in (tmp_path / "sweep" / "points" / failed["name"] / "failure.txt").read_text()
    assert failed["error"] in (tmp_path / "sweep" / "table.md").read_text()
    monkeypatch.setattr(running, "train", real)
    assert main(words) == 0
    assert points(tmp_path / "sweep")[failed["name"]]["status"] == "done"


def test_without_a_teacher_all_points_of_a_task_fail_at_once(words, tmp_path, two_tasks, capsys):
    broken = ["--task-flags", f"beasts=--train-file {tmp_path / 'missing.csv'}", "--seeds", "1", "2"]
    assert main([*words, *broken]) == 1
    found = points(tmp_path / "sweep")
    assert [found[f"animals-default-s30-seed{seed}"]["status"] for seed in (1, 2)] == ["done", "done"]
    assert all("missing.csv" in found[f"beasts-default-s30-seed{seed}"]["error"] for seed in (1, 2))


def test_other_settings_are_refused_before_anything_runs(words, whole, capsys):
    words[1] = str(whole)
    assert run_command(lambda: main([*words, "--prune-epochs", "3", "--seeds", "2", "1"])) == 2
    message = capsys.readouterr().err
    assert "--prune-epochs 3.0 (the run has 2.0)" in message and "animals-default-s30-seed1" in message
    assert run_command(lambda: main([*words, "--seeds", "2", "--teacher-epochs", "2"])) == 2
    assert "the teacher of animals" in capsys.readouterr().err
    assert len(points(whole)) == 2


@pytest.mark.parametrize("absolute_first", [False, True], ids=["relative-first", "absolute-first"])
def test_a_place_may_be_spelt_in_two_ways(one, tmp_path, monkeypatch, absolute_first):
    """Of the sweep, and so of its teachers, and of the data and the model."""
    monkeypatch.chdir(tmp_path)
    relative = [os.path.relpath(word) if word.startswith("/") else word for word in one]
    first, second = (one, relative) if absolute_first else (relative, one)
    assert main(first) == 0
    taken = count_steps(monkeypatch)
    assert main(second) == 0
    assert main([*second, "--seeds", "1", "2"]) == 0
    assert len(taken) == 8 + 4


def test_other_places_are_other_settings(one, checkpoint, tmp_path, monkeypatch, capsys):
    assert main(one) == 0
    shutil.copytree(checkpoint, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    for name in ("copy", "some/hub-id"):
        assert run_command(lambda name=name: main([*one, "--model", name])) == 2
        assert f"--model {name} (the run has {checkpoint})" in capsys.readouterr().err


def test_a_name_that_is_no_path_is_one_place_with_itself_alone(tmp_path, monkeypatch):
    """Ids of a hub differ in spellings that would be one path."""
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path / "run")
    run.start(TrainConfig(model="some/id"))
    check_settings(run, TrainConfig(model="some/id"), "it")
    with pytest.raises(UserError, match=r"--model some//id \(the run has some/id\)"):
        check_settings(run, TrainConfig(model="some//id"), "it")
    (tmp_path / "some" / "id").mkdir(parents=True)
    check_settings(run, TrainConfig(model="some//id"), "it")


def test_teachers_are_shared_between_sweeps(one, whole, monkeypatch):
    taken = count_steps(monkeypatch)
    assert main([*one, "--teachers", str(whole / "teachers"), "--learning-rate", "1e-3"]) == 0
    assert set(taken) == {"prune", "finetune"}


def test_threads_of_one_task_are_its_own(words, tmp_path):
    threads = torch.get_num_threads()
    assert main([*words, "--task-flags", f"animals=--threads {threads + 1}"]) == 0
    found = {point["task"]: point["machine"]["threads"] for point in points(tmp_path / "sweep").values()}
    assert found == {"animals": threads + 1, "beasts": threads}


def test_a_dry_run_prints_the_plan_and_writes_nothing(words, tmp_path, capsys):
    assert main([*words, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["1", "waiting", "animals-default-s30-seed1"],
        ["2", "waiting", "beasts-default-s30-seed1"],
    ]
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--tasks", "nosuch"], "error: --tasks nosuch: --task must be one of sst2, mnli"),
        (["--data", "nowhere"], "error: --tasks animals: no such directory: --data nowhere"),
        (["--target-speedups", "4", "--device-profile", "nosuch"], "error: --device-profile nosuch: neither nosuch"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_refused_before_anything_runs(words, tmp_path, capsys, given, message):
    output = tmp_path / "new"
    for dry_run in ([], ["--dry-run"]):
        assert run_command(lambda more=dry_run: main([*words, "--output", str(output), *given, *more])) == 2
        assert message in capsys.readouterr().err and not output.exists()


def test_two_sweeps_in_one_directory_do_not_mix(words, tmp_path, capsys):
    from cofi.sweep.store import locked

    with locked(tmp_path / "sweep", "--output"):
        assert run_command(lambda: main(words)) == 2
    assert "is in use by another process" in capsys.readouterr().err


def test_a_system_without_locks_is_named_where_a_sweep_starts(tmp_path, monkeypatch):
    from cofi.sweep.store import locked

    monkeypatch.setitem(sys.modules, "fcntl", None)
    needs = "--output .*sweep cannot be held against other processes: .*not supported"
    with pytest.raises(UserError, match=needs), locked(tmp_path / "sweep", "--output"):
        pass


def test_estimate_goes_by_what_is_most_alike():
    def point(task, variant, seconds=None):
        return {"task": task, "variant": variant, "total_seconds": seconds}

    finished = [point("a", "x", 10), point("a", "y", 30), point("b", "x", 100)]
    assert running.remaining_seconds(finished, [point("a", "x")]) == 10
    assert running.remaining_seconds(finished, [point("a", "z"), point("b", "y")]) == 20 + 100
    assert running.remaining_seconds(finished, [point("c", "x")]) == pytest.approx(140 / 3)
    assert running.remaining_seconds([], [point("c", "x")]) is None
