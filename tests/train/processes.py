"""Runs on several processes. A server that has imported everything forks them, so that none takes seconds to start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

SECONDS = 60.0  # after which a run hangs; the longest takes 3


@dataclass
class Ended:
    """How the processes of a run ended: exit codes, what they wrote to standard output and error, by rank."""

    codes: list[int | None]
    out: list[str]
    err: list[str]


def run_together(work: Callable[..., Any], *arguments: Any, size: int = 2, folder: Path) -> Ended:
    """Run `work(*arguments)`, a function of a module, in `size` processes as torchrun would start them.

    What it returns is the exit code. A process that does not end in time is killed, and has the code of that.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cofi.train.__main__", "tests.train.processes"])
    port = _free_port()
    started = [
        context.Process(target=_process, args=(rank, size, port, folder, work, arguments)) for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    texts = [[(folder / f"{rank}.{name}").read_text() for rank in range(size)] for name in ("out", "err")]
    return Ended([process.exitcode for process in started], *texts)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _process(rank: int, size: int, port: int, folder: Path, work: Callable[..., Any], arguments: Any) -> None:
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        with open(folder / f"{rank}.{name}", "w") as file:
            os.dup2(file.fileno(), stream.fileno())
    launcher = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size}
    os.environ |= {name: str(value) for name, value in launcher.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    sys.exit(work(*arguments))


def without_measuring(patch: pytest.MonkeyPatch) -> None:
    """Leave out the measurement of speed and the report, three quarters of a tiny run."""
    patch.setattr("cofi.train.result.measure_speedup", lambda *_, **__: {"speedup": {}})
    patch.setattr("cofi.train.__main__._show", lambda *_, **__: 0)


def whole_command(flags: list[str]) -> int:
    """`python -m cofi.train`."""
    from cofi.cli import run
    from cofi.train.__main__ import main

    torch.set_num_threads(1)
    return run(lambda: main(flags))


def train_command(flags: list[str], signals: dict[int, tuple[int, signal.Signals]] | None = None) -> int:
    """The same `without_measuring`. signals: {rank: (step, the signal it sends itself in the middle of that step)}."""
    from cofi.train import loop

    without_measuring(pytest.MonkeyPatch())
    step, signum = (signals or {}).get(int(os.environ["RANK"]), (0, signal.SIGTERM))
    add_up, steps = loop.add_up, 0

    def watched(*arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signum)
        add_up(*arguments)

    loop.add_up = watched
    return whole_command(flags)
