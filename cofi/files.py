"""Files as every part of cofi reads and writes them: with a limit on their size, and whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

import yaml

from cofi.errors import UserError

MAX_BYTES = 64 << 20  # of a JSON or YAML file; an index of a sharded model is below 1 MiB


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error of the operating system name `path`, which a full disk alone does not.

    Libraries written in Rust raise classes of their own for such errors, and torch.save raises another when it closes
    what it could not write: they become OSError.
    """
    try:
        yield
    except Exception as error:
        code = _errno(error)
        if code is None:
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def _errno(error: BaseException | None) -> int | None:
    """The system's number of an error, or of the one it was raised after."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else _rust_errno(error)
        if code is not None:
            return code
        error = error.__context__
    return None


def _rust_errno(error: BaseException) -> int | None:
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def write_atomically(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    content: the bytes, or what writes them into the file it is given, so that a large content is never in memory twice

    Raises OSError naming `path`; what was at `path` is then still there, and nothing else.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            with open(temporary, "wb") as file:
                if callable(content):
                    content(file)
                else:
                    file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def lock(file: IO[Any], *, wait: bool = False) -> None:
    """Lock an open file against other processes until it is closed, whatever becomes of this one.

    Raises BlockingIOError where another process has it, unless that is waited for, and another OSError where the system
    or the file system has no such locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP)) from error
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def check_size(path: Path, max_bytes: int) -> None:
    """Raise UserError where a file is larger than it may be."""
    size = path.stat().st_size
    if size > max_bytes:
        raise UserError(f"{path} has {size} bytes, more than the {max_bytes} bytes such a file may have")


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file. Raises UserError where it is larger than `max_bytes`, is no UTF-8 or cannot be read."""
    try:
        check_size(path, max_bytes)
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read as UTF-8 text: {error}") from error


def read_json(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """A JSON object. Raises UserError naming the file where there is none."""
    return _parse(path, max_bytes, "JSON", json.loads)  # type: ignore[no-any-return]


def read_json_list(path: Path, max_bytes: int = MAX_BYTES) -> list[Any]:
    """A JSON array. Raises UserError naming the file where there is none."""
    return _parse(path, max_bytes, "JSON", json.loads, list)  # type: ignore[no-any-return]


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """A YAML mapping of plain values. Raises UserError naming the file where there is none, or an anchor or alias."""
    return _parse(path, max_bytes, "YAML", _plain_yaml)  # type: ignore[no-any-return]


class _PlainLoader(yaml.SafeLoader):
    """Without anchors and aliases, by which 300 bytes are 10^9 values; no file of cofi has them."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        if event.anchor is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _plain_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _PlainLoader)  # a SafeLoader: builds nothing but plain values
    except (LookupError, AttributeError) as error:  # of a value that its tag does not fit, such as !!bool x
        raise ValueError(f"a value is not what its tag says ({type(error).__name__}: {error})") from error


def _parse(path: Path, max_bytes: int, language: str, parse: Callable[[str], Any], kind: type = dict) -> Any:
    text = read_text(path, max_bytes)
    try:
        value = parse(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as {language}: {' '.join(str(error).split())}") from error
    if not isinstance(value, kind):
        wanted = "array" if kind is list else "object"
        raise UserError(f"{path} must hold a {language} {wanted}, got {type(value).__name__}")
    return value
