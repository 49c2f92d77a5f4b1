"""What a run shows and writes while it works: progress bars, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cofi.errors import UserError
from cofi.files import naming
from cofi.masks import TARGET_UNITS

PLAIN_SECONDS = 20.0  # where nothing can be redrawn (a log file), a line at most this often
T = TypeVar("T")


class Monitor:
    """Progress of one run. Use as a context manager; `seconds` counts over interruptions. quiet: shows nothing."""

    def __init__(
        self, metrics: Path, *, seconds: float = 0.0, tensorboard: Path | None = None, quiet: bool = False
    ) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self._start = time.monotonic() - seconds
        self._path = metrics
        self._file = open(metrics, "ab")  # noqa: SIM115  # lives as long as the run; closed in __exit__
        self._board = _summary_writer(tensorboard) if tensorboard else None
        self._bar: TaskID | None = None
        self._score: float | None = None
        self._last_line = 0.0
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Monitor:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
        with naming(self._path):
            self._file.close()
        if self._board is not None:
            self._board.close()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def message(self, text: str) -> None:
        self.progress.console.print(text, highlight=False)

    def begin(self, description: str, total: int, done: int = 0) -> None:
        """Start the bar of a phase."""
        self._score = None
        self._bar = self.progress.add_task(description, total=total, completed=done, status="")

    def end(self) -> None:
        if self._bar is not None:
            self.progress.update(self._bar, status=self._score_text())
            self.progress.stop_task(self._bar)
            self._bar = None

    def advance(self) -> None:
        if self._bar is not None:
            self.progress.advance(self._bar)

    def track(self, description: str, items: Sequence[T]) -> Iterator[T]:
        """The items one by one, with a bar; where nothing can be redrawn, now and then a line with the time left.

        Within a phase its own bar goes on afterwards.
        """
        started = time.monotonic()
        outer = self._bar, self._score
        self.begin(description, len(items))
        for done, item in enumerate(items):
            now = time.monotonic()
            if not self.console.is_terminal and done and now - self._last_line > PLAIN_SECONDS:
                self._last_line = now
                left = timedelta(seconds=round((now - started) / done * (len(items) - done)))
                self.console.print(f"{description} {done} of {len(items)}, ETA {left}", highlight=False)
            yield item
            self.advance()
        self.end()
        self._bar, self._score = outer

    def record(self, row: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl and show the essence of one about a step."""
        with naming(self._path):
            self._file.write((json.dumps({**row, "seconds": round(self.seconds, 3)}) + "\n").encode())
            self._file.flush()
        if row["type"] == "evaluation":
            self._score = row["score"]
        if self._board is not None:
            self._to_board(row)
        if "phase_step" in row:
            self._show(row)

    def position(self) -> int:
        """Bytes written to metrics.jsonl, for a checkpoint."""
        return self._file.tell()

    def _score_text(self) -> str:
        return "" if self._score is None else f"score {self._score:.2f}"

    def _show(self, row: dict[str, Any]) -> None:
        words = [f"loss {row['loss']:.4f}"] if "loss" in row else []
        words += [
            f"{unit} {row.get(f'kept_{unit}', row[f'expected_{unit}']):.3f} of {row[f'target_{unit}']:.3f}"
            for unit in TARGET_UNITS
            if row.get(f"target_{unit}") is not None
        ]
        words.append(self._score_text())
        status = "  ".join(word for word in words if word)
        if self._bar is not None:
            self.progress.update(self._bar, status=status)
        due = time.monotonic() - self._last_line > PLAIN_SECONDS or row["type"] == "evaluation"
        if not self.console.is_terminal and due:
            self._last_line = time.monotonic()
            self.console.print(f"{row['phase']} step {row['phase_step']}: {status}", highlight=False)

    def _to_board(self, row: dict[str, Any]) -> None:
        assert self._board is not None
        for name, value in row.items():
            if isinstance(value, int | float) and name not in ("step", "phase_step") and not isinstance(value, bool):
                self._board.add_scalar(f"{row['type']}/{name}", value, row["step"])


def truncate(metrics: Path, position: int) -> None:
    """Drop the lines that were written after the checkpoint that is continued from.

    After a power cut the file may end before it, within a line: checkpoints are waited for until they are on the disk.
    """
    if metrics.exists():
        with open(metrics, "r+b") as file:
            file.truncate(file.read(position).rfind(b"\n") + 1)


def _summary_writer(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def require_tensorboard() -> None:
    """Raise UserError where the package is not there."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard")
