"""A training that blows up: one line says where and which flag, and no such state is kept as the best."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cofi.cli import run as run_command
from cofi.train.__main__ import main

FAR_TOO_HIGH = "1e30"


def assert_ends(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: main(flags)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and words in lines[-1], lines
    assert sum(line.startswith("error: ") for line in lines) == 1


@pytest.mark.parametrize(
    ("phase", "flag"),
    [
        ("teacher", "--teacher-learning-rate"),
        ("distil", "--learning-rate"),
        ("prune", "--reg-learning-rate"),
        ("finetune", "--finetune-learning-rate"),
    ],
)
def test_a_loss_that_is_no_number_is_not_evaluated(
    phase: str, flag: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the lines of the log as well: classes can be read off NaN, and may score best."""
    assert_ends([*flags, flag, FAR_TOO_HIGH, "--log-steps", "50", "--eval-steps", "1"], f"phase {phase}, step ", capsys)
    best = tmp_path / "run" / "checkpoints" / f"best_{phase}.pt"
    if best.exists():
        state = torch.load(best, weights_only=True)["model"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_the_message_names_the_flag(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = "start again with a lower --teacher-learning-rate (--overwrite replaces this run)"
    assert_ends([*flags, "--teacher-learning-rate", FAR_TOO_HIGH], words, capsys)


def test_a_last_step_that_breaks_the_model(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its loss was computed before, and is a number."""
    one_step = ["--teacher-epochs", "0.25", "--teacher-learning-rate", FAR_TOO_HIGH]
    assert_ends([*flags, *one_step], "phase teacher, step 1: the model's outputs became infinite or NaN", capsys)
    assert not (tmp_path / "run" / "checkpoints" / "best_teacher.pt").exists()
