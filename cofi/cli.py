"""What every command shares: flags with dashes or underscores, errors of the user's making as one line and exit 2."""

from __future__ import annotations

import argparse
import difflib
import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from cofi.errors import UserError
from cofi.files import write_atomically
from cofi.startup import started

EXIT_USER_ERROR = 2
EXIT_SIGNAL = 128  # plus the signal's number, as shells have it
_FEW_FLAGS = 20  # cofi.train has 65, a screen full
# a full disk and the like, which may show at any write; any other OSError that arrives here is our mistake
_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EIO,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
)


def run(main: Callable[[], int | None]) -> int:
    """Run a command's `main` and return its exit code; a UserError is printed as one line on standard error."""
    started()
    try:
        return main() or 0
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        return _fail(f"{error.filename or 'input or output'}: {error.strerror}")
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return EXIT_SIGNAL + signal.SIGINT


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {' '.join(line.strip() for line in message.splitlines())}\n")
    return EXIT_USER_ERROR


class OneLineErrors(argparse.ArgumentParser):
    """What is wrong with the flags is a UserError; where one is unknown or missing it says which may be meant."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("argument "):  # a bad value: the message names the flag and the rule
            raise UserError(re.sub(r"^argument (\S+/)?", "", message))
        names = (name for action in self._actions for name in action.option_strings)
        flags = sorted(name for name in names if name.startswith("--") and "_" not in name)
        raise UserError(f"{message} ({self._meant(message, flags)})")

    def _meant(self, message: str, flags: Sequence[str]) -> str:
        """The flags most like those that were not recognized; all of them where none is and they fit on a few lines."""
        given = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        close = [found for name in given for found in difflib.get_close_matches(_dashed(name), flags, 1, 0.7)]
        if close:
            return f"did you mean {' or '.join(dict.fromkeys(close))}?"
        return f"flags: {', '.join(flags)}" if len(flags) <= _FEW_FLAGS else f"{self.prog} --help lists all flags"


class Parser(OneLineErrors):
    """Flags with dashes or underscores, never abbreviated."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse `argv`, or the command line where it is None."""
        return self.parse_args([_dashed(word) for word in (sys.argv[1:] if argv is None else argv)])

    def parse_known(self, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """Parse the flags there are, and return the other words, for another command's parser."""
        return self.parse_known_args([_dashed(word) for word in argv])

    def add_device_flag(self) -> None:
        self.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one")

    def add_json_flag(self) -> None:
        """--json, for `write_json`."""
        self.add_argument(
            "--json", type=_json_target, metavar="FILE", help="write the result as JSON; - for standard output"
        )


def positive(text: str) -> int:
    """Type of a flag: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def write_json(result: dict[str, Any], target: str) -> None:
    """Write the result to a file, whole or not at all, or to standard output for "-". Raises UserError."""
    text = json.dumps(result, indent=2) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    try:
        write_atomically(Path(target), text.encode())
    except OSError as error:
        raise UserError(f"--json {target} cannot be written: {error.strerror or error}") from error


def _json_target(text: str) -> str:
    """Type of --json: refused before the work where the file could not be written after it."""
    path, reason = Path(text), None
    if path.is_dir():
        reason = "is a directory"
    elif not path.parent.is_dir():
        reason = f"there is no directory {path.parent}"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        reason = f"{path.parent} is not a writable directory"
    if text != "-" and reason is not None:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written: {reason}")
    return text


def _dashed(word: str) -> str:
    """--max_length=8 as --max-length=8; values stay as they are."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word
