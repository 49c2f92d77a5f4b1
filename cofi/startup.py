"""Ctrl-C while a command starts: PyTorch and transformers take seconds to import, and nothing is begun by then.

Imported before anything large. It matters for `python -m cofi.<command>` alone; who imports cofi keeps their handler.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def _stop(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"stopped\n")
    os._exit(128 + signum)  # an exception would be caught, or printed, by whatever is being imported


def stop_in_one_word() -> None:
    """Let SIGINT end the process with one word on standard error, where Python still has its own handler."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def started() -> None:
    """From here on SIGINT is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


if sys.argv[:1] == ["-m"]:  # what Python puts there until it has found the command's __main__.py
    stop_in_one_word()
