"""A disk with no room: one line names the file, what was there stays, and a run goes on once there is room.

The room is that of a limit on the size of files, which the system enforces at the same calls as a full disk.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from cofi.cli import run as run_command
from cofi.export.__main__ import main as export
from cofi.files import naming, write_atomically
from cofi.models import load_model, save_model
from cofi.train.__main__ import main as train
from tests.tiny_run import run_flags

SMALL = 20_000  # bytes: settings fit, a model and a checkpoint do not


@contextlib.contextmanager
def room_for(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def error_of(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 2 and last.startswith("error: "), last
    return last


def test_the_error_names_the_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", b"old")
    with room_for(10), pytest.raises(OSError, match="too large: '.*/file'"):
        write_atomically(tmp_path / "file", bytes(11))
    assert (tmp_path / "file").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_errors_of_libraries_in_rust() -> None:
    with pytest.raises(OSError, match="No space left") as caught, naming(Path("x")):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "x")
    with pytest.raises(RuntimeError, match="something else"), naming(Path("x")):
        raise RuntimeError("something else")


def test_a_run_goes_on_when_there_is_room(
    flags: list[str], checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with room_for(SMALL):
        code = run_command(lambda: train(flags))
    assert f"error: {run}/checkpoints/" in error_of(code, capsys)
    assert not list((run / "checkpoints").iterdir())
    assert train(["--output", str(run), "--resume"]) == 0
    assert train(run_flags(checkpoint, data, tmp_path / "whole")) == 0
    weights = [folder / "model" / "model.safetensors" for folder in (run, tmp_path / "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_export(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense = save_model(load_model(checkpoint, head="classification").model, checkpoint, tmp_path / "dense")
    output = tmp_path / "out"
    with room_for(SMALL):
        code = run_command(lambda: export([str(dense), "--to", "compact", "--output", str(output)]))
    assert f"error: {output} cannot be written: " in error_of(code, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]
