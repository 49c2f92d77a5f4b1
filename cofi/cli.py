"""What every command shares: flags with dashes or underscores, errors of the user's making as one line and exit 2."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from cofi.errors import UserError

EXIT_USER_ERROR = 2
EXIT_SIGNAL = 128  # plus the signal's number, as shells have it


def run(main: Callable[[], int | None]) -> int:
    """Run a command's `main` and return its exit code; a UserError is printed as one line on standard error."""
    try:
        return main() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        return EXIT_SIGNAL + signal.SIGINT


class Parser(argparse.ArgumentParser):
    """Flags with dashes or underscores, never abbreviated; what is wrong with them is a UserError listing the flags."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse `argv`, or the command line where it is None."""
        return self.parse_args([_dashed(word) for word in (sys.argv[1:] if argv is None else argv)])

    def error(self, message: str) -> NoReturn:
        flags = sorted(name for action in self._actions for name in action.option_strings if name.startswith("--"))
        raise UserError(f"{message} (flags: {', '.join(flags)})")


def _dashed(word: str) -> str:
    """--max_length=8 as --max-length=8; values stay as they are."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word
