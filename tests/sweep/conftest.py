from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cofi.sweep import running
from cofi.sweep.__main__ import main
from tests.tiny_sweep import tiny_sweep


@pytest.fixture(scope="module")
def two_tasks(data: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name in ("animals", "beasts"):
        shutil.copytree(data / "animals", folder / name)
    return folder


@pytest.fixture
def words(checkpoint, two_tasks, tmp_path, monkeypatch) -> list[str]:
    """A sweep of two points in tmp_path/sweep, without pages and plots: those take longer than the runs."""
    monkeypatch.setattr(running, "write_report", lambda run: None)
    monkeypatch.setattr("cofi.sweep.results.draw", lambda records: {})
    return tiny_sweep(checkpoint, two_tasks, tmp_path / "sweep")


@pytest.fixture
def one(words) -> list[str]:
    """The same with one point."""
    return [word.replace("animals,beasts", "animals") for word in words]


@pytest.fixture(scope="module")
def whole(checkpoint, two_tasks, tmp_path_factory) -> Path:
    """The sweep of two points, run through."""
    folder = tmp_path_factory.mktemp("whole") / "sweep"
    assert main(tiny_sweep(checkpoint, two_tasks, folder)) == 0
    return folder
