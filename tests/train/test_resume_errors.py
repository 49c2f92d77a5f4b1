"""Runs that cannot be continued: one line says why, and the run stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cofi.cli import run as run_command
from cofi.train.__main__ import main
from cofi.train.rundir import RunDirectory
from tests.killed import killed_when
from tests.tiny_run import run_flags


@pytest.fixture(scope="module")
def stopped(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that broke off while pruning."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    with killed_when(lambda phase_loop, _: phase_loop.phase == "prune"):
        main([*run_flags(checkpoint, data, output), "--distil-epochs", "0", "--save-seconds", "0", "--eval-steps", "1"])
    return output


Edit = Callable[[Path], object]


def settings(**changes: Any) -> Edit:
    def edit(run: Path) -> None:
        file = run / "config.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | changes))

    return edit


def cut(name: str, keep: int) -> Edit:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:keep])


def other_checkpoint(run: Path) -> None:
    torch.save({"format": 1, "phase": "prune"}, run / "checkpoints" / "last.pt")


def score_without_its_state(run: Path) -> None:
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    torch.save(last | {"best_score": 50.0}, run / "checkpoints" / "last.pt")
    (run / "checkpoints" / "best_prune.pt").unlink(missing_ok=True)


def gates_of_other_kinds(run: Path) -> None:
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    last["gates"] = {name: value[:-1] for name, value in last["gates"].items()}
    torch.save(last, run / "checkpoints" / "last.pt")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (cut("checkpoints/last.pt", 3000), "last.pt cannot be loaded as plain tensors"),
        (cut("checkpoints/last.pt", 0), "last.pt cannot be loaded as plain tensors"),
        (lambda run: (run / "checkpoints" / "last.pt").write_bytes(b"hello"), "last.pt cannot be loaded"),
        (other_checkpoint, "last.pt is not the last checkpoint of a run: it holds format, phase"),
        (lambda run: shutil.rmtree(run / "teacher"), "the teacher of the run is gone"),
        (cut("teacher/model.safetensors", 500), "teacher/model.safetensors is truncated"),
        (cut("config.yaml", 0), "config.yaml must hold a YAML object"),
        (lambda run: (run / "config.yaml").unlink(), "holds no run (no config.yaml)"),
        (settings(colour="red"), "is not the configuration of a run: ['colour']"),
        (settings(sparsity="high"), "config.yaml: --sparsity must be a number, got 'high'"),
        (settings(batch_size=1.5), "config.yaml: --batch-size must be a whole number, got 1.5"),
        (settings(batch_size=True), "config.yaml: --batch-size must be a whole number, got True"),
        (settings(distill="no"), "config.yaml: --distill must be true or false, got 'no'"),
        (settings(data=["a"]), "config.yaml: --data must be text or nothing, got ['a']"),
        (settings(student_init="zebra"), "--student-init must be one of auto, model, teacher, got 'zebra'"),
        (settings(sparsity=0.2), "was changed since"),
        (settings(mask_kinds="head,int"), "--mask-kinds head,int (the run has all)"),
    ],
)
def test_a_damaged_run_is_one_line_and_stays(
    edit: Edit, words: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    edit(run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert run_command(lambda: main(["--output", str(run), "--resume"])) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error, error
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (score_without_its_state, "the best state of phase prune is gone"),
        (gates_of_other_kinds, "the checkpoint does not fit the gates of this run"),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    edit: Edit, words: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    edit(run)
    assert run_command(lambda: main(["--output", str(run), "--resume"])) == 2
    assert f"error: {words}" in capsys.readouterr().err.replace("--resume: ", "")


@pytest.mark.parametrize("flag", ["--sparsity 0.5", "--model x", "--overwrite"])
def test_a_changed_flag_is_refused(
    flag: str, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    assert run_command(lambda: main(["--output", str(run), "--resume", *flag.split()])) == 2
    assert f"it cannot change {flag}" in capsys.readouterr().err


def test_without_checkpoints_it_starts_again(stopped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    assert main(["--output", str(run), "--resume"]) == 0
    assert (run / "result.json").is_file()


def test_a_setting_younger_than_the_run_has_its_default(stopped: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    for settings_then in (config, last["settings"]):
        del settings_then["sparsity_ramp"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(last, run / "checkpoints" / "last.pt")
    assert main(["--output", str(run), "--resume"]) == 0


def test_a_run_goes_on_without_the_checkpoint_it_came_from(
    checkpoint: Path, data: Path, stopped: Path, tmp_path: Path
) -> None:
    """Its teacher and the tokenizer are in the run."""
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    gone = str(tmp_path / "gone")
    settings(model=gone)(run)
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    last["settings"]["model"] = gone
    torch.save(last, run / "checkpoints" / "last.pt")
    assert main(["--output", str(run), "--resume"]) == 0


def test_a_run_that_replaced_another_goes_on(checkpoint: Path, data: Path, stopped: Path, tmp_path: Path) -> None:
    """Also one whose checkpoint still says --overwrite, as all did once."""
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    with killed_when(lambda phase_loop, _: phase_loop.phase == "prune"):
        main([*run_flags(checkpoint, data, run), "--overwrite", "--save-seconds", "0", "--eval-steps", "1"])
    last = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert not last["settings"]["overwrite"]
    last["settings"]["overwrite"] = True
    torch.save(last, run / "checkpoints" / "last.pt")
    assert main(["--output", str(run), "--resume"]) == 0


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_run_that_another_process_writes_is_left_alone(
    flags: list[str], stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    with RunDirectory(run).held():
        before = sorted(run.rglob("*"))
        arguments = ["--output", str(run), how] if how == "--resume" else [*flags, how]
        assert run_command(lambda: main(arguments)) == 2
        assert sorted(run.rglob("*")) == before
    assert "run is in use by another process" in capsys.readouterr().err


def test_overwriting_keeps_the_old_run_until_the_new_one_can_start(
    flags: list[str], stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(stopped, tmp_path / "run"))
    assert run_command(lambda: main([*flags, "--overwrite", "--label-column", "colour"])) == 2
    assert (run / "checkpoints" / "last.pt").is_file()
