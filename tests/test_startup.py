"""Ctrl-C before a command's own code runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cofi import startup
from cofi.cli import run

ROOT = Path(__file__).parents[1]

# what `python -m cofi.train` does until it has imported everything, and a Ctrl-C in the middle of it
INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)

sys.argv = {argv}
sys.meta_path.insert(0, Finder())
import cofi
"""


def import_with_ctrl_c(argv: list[str]) -> subprocess.CompletedProcess[str]:
    code = INTERRUPTED.format(argv=argv)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_a_command_that_is_starting_stops_in_one_word() -> None:
    stopped = import_with_ctrl_c(["-m", "--task", "rte"])
    assert (stopped.returncode, stopped.stderr) == (128 + signal.SIGINT, "stopped\n")


def test_programs_that_import_cofi_keep_their_handler() -> None:
    stopped = import_with_ctrl_c(["my_program.py"])
    assert stopped.returncode == -signal.SIGINT and stopped.stderr.endswith("KeyboardInterrupt\n")


def test_a_running_command_gets_its_exception_back(capsys: pytest.CaptureFixture[str]) -> None:
    startup.stop_in_one_word()
    assert signal.getsignal(signal.SIGINT) is startup._stop
    assert run(lambda: os.kill(os.getpid(), signal.SIGINT)) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
