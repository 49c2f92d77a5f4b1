"""What every command shares: errors of the user's making end as one line and exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

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
