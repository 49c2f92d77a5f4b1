"""Files are written whole or not at all, and read with a limit."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from cofi.errors import UserError
from cofi.files import read_json, read_yaml, write_atomically


def test_written_files_have_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_content_can_write_itself(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def first_half(file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "no room")

    write_atomically(path, lambda file: file.write(b"whole"))
    with pytest.raises(OSError, match=r"No space left.*/file"):
        write_atomically(path, first_half)
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


# of 254 bytes the file could be, but not the temporary one beside it, however few digits the process has
@pytest.mark.parametrize("name", ["x" * 300, "x" * 254, "nowhere/file"])
def test_a_name_that_cannot_be_is_an_os_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="No such|too long"):
        write_atomically(tmp_path / name, b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON: Expecting"),
        (b"[1]", "must hold a JSON object, got list"),
        (b"\xff", "cannot be read as UTF-8 text"),
        (b"[" * 100_000, "cannot be read as JSON"),
        (b'{"a": 1234567}', "has 14 bytes, more than the 12 bytes"),
        (b"", "cannot be read as JSON"),
    ],
)
def test_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.json {message}"):
        read_json(path, 100_001 if len(content) > 50 else 12)


def test_absent_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_json(tmp_path / "absent")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_yaml(tmp_path)


def test_an_error_of_yaml_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: [\nb: }")
    with pytest.raises(UserError, match="cannot be read as YAML: .* line 2, column") as error:
        read_yaml(tmp_path / "x.yaml")
    assert "\n" not in str(error.value)


def test_values_of_plain_yaml(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: '*all & more'\nb: [1, 2.5, null, true]\nc: x & y * z\n")
    values = {"a": "*all & more", "b": [1, 2.5, None, True], "c": "x & y * z"}
    assert read_yaml(tmp_path / "x.yaml") == values


_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize("text", [_BOMB, "a: &x 1\nb: 2", "a: &x {b: 1}\nc:\n  <<: *x", "&x a: 1", "a: &x [*x]"])
def test_anchors_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match="x.yaml cannot be read as YAML: anchors and aliases are not allowed .* line 1"):
        read_yaml(tmp_path / "x.yaml")


@pytest.mark.parametrize("value", ["!!int ''", "!!float ''", "!!bool maybe", "!!timestamp today"])
def test_values_that_do_not_fit_their_tag(tmp_path: Path, value: str) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {value}")
    with pytest.raises(UserError, match="x.yaml cannot be read as YAML: a value is not what its tag says"):
        read_yaml(tmp_path / "x.yaml")
