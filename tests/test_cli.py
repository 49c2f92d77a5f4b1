"""What every command shares: how it ends, how flags are spelt, how results are written."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from cofi.cli import Parser, positive, run, write_json
from cofi.errors import UserError


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def main() -> NoReturn:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UserError("a: bad\n  line 2"), 2, "error: a: bad line 2\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.pt"), 2, "error: x.pt: No space left on device\n"),
        (OSError(errno.EIO, "Input/output error"), 2, "error: input or output: Input/output error\n"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "stopped\n"),
    ],
    ids=["user", "disk", "device", "interrupt"],
)
def test_an_end_that_is_explained(
    error: BaseException, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raising(error)) == code
    assert capsys.readouterr().err == shown


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file"), KeyError("x")], ids=repr)
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run(raising(error))


def parser() -> Parser:
    made = Parser("prog", None)
    made.add_argument("--batch-size", type=positive)
    made.add_argument("--kind", choices=["a", "b"])
    made.add_json_flag()
    return made


def test_flags_take_dashes_and_underscores_and_are_never_cut() -> None:
    assert parser().parse(["--batch_size=3", "--json", "-"]).batch_size == 3
    with pytest.raises(UserError, match=r"unrecognized arguments: --batch 3 \(did you mean --batch-size\?\)"):
        parser().parse(["--batch", "3"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch-size", "0"], "--batch-size: must be a whole number from 1, got '0'"),
        (["--batch_size", "1.5"], "--batch-size: must be a whole number from 1, got '1.5'"),
        (["--batch-size"], "--batch-size: expected one argument"),
        (["--kind", "c"], "--kind: invalid choice: 'c'"),
        (["--json", "/gone/x"], "--json: '/gone/x' cannot be written: there is no directory /gone"),
        (["--json", "/"], "--json: '/' cannot be written: is a directory"),
    ],
)
def test_a_bad_value_names_its_flag(words: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        parser().parse(words)
    assert str(error.value).startswith(message)


def test_json_where_nothing_may_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=f"--json: .* cannot be written: {tmp_path} is not a writable directory"):
        parser().parse(["--json", str(tmp_path / "x.json")])


def test_json_goes_to_a_file_or_to_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": 1}, str(tmp_path / "x.json"))
    write_json({"a": 1}, "-")
    assert json.loads((tmp_path / "x.json").read_text()) == json.loads(capsys.readouterr().out) == {"a": 1}
    with pytest.raises(UserError, match="--json .*gone/x cannot be written: No such file"):
        write_json({}, str(tmp_path / "gone" / "x"))
