"""sweep.json, table.md and the plots: in the sweep's directory, and where results are kept for readers."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from cofi.errors import UserError
from cofi.files import read_json, write_atomically
from cofi.sweep.figures import draw
from cofi.sweep.merging import check_one_setting, merged
from cofi.sweep.store import DONE, SUMMARY, make_directory, read_point, with_all
from cofi.sweep.summary import Record, report

FORMAT = 1
_OF_RESULT = ("score", "metric", "teacher_score", "total_seconds")  # of a finished point, what no table does without


def write_summary(path: Path, records: Sequence[Record], command: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Write sweep.json, which keeps the commands of earlier calls, and return what it holds."""
    earlier = read_json(path).get("commands", []) if path.is_file() else []
    summary = {
        "format": FORMAT,
        "machine": dict(machine),
        "commands": list(dict.fromkeys([*earlier, command])),
        "points": list(records),
    }
    save_summary(path.parent, summary)
    return summary


def save_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write sweep.json alone."""
    write_atomically(folder / SUMMARY, (json.dumps(summary, indent=1) + "\n").encode())


def write_documents(folder: Path, summary: Mapping[str, Any], *, plots: bool = True) -> None:
    """Write table.md and the plots beside it."""
    table = report(summary["points"], summary["commands"], summary["machine"])
    write_atomically(folder / "table.md", table.encode())
    if plots:
        for name, png in draw(summary["points"]).items():
            write_atomically(folder / name, png)


def publish(folder: Path, summary: Mapping[str, Any]) -> None:
    """The same for readers elsewhere, beside the points that are there already.

    Absolute paths in the commands keep their last part only. Raises UserError.
    """
    public = {**summary, "commands": [_without_places(command) for command in summary["commands"]]}
    public = merged(_there(folder), public)
    make_directory(folder, "--results")
    try:
        save_summary(folder, public)
        write_documents(folder, public)
    except OSError as error:
        raise UserError(f"--results {folder} cannot be written: {error.strerror or error}") from error


def check_publishable(folder: Path, planned: Sequence[Record]) -> None:
    """Raise UserError where `publish` would refuse `planned`: better before a sweep of days than after it."""
    make_directory(folder, "--results")
    check_one_setting([*_there(folder)["points"], *planned])


def _there(folder: Path) -> dict[str, Any]:
    """What was published in `folder` before."""
    return read_summary(folder) if (folder / SUMMARY).is_file() else {"points": []}


def _without_places(command: str) -> str:
    """`--data /home/me/glue` as `--data glue`; inside of quoted flags too."""
    words = []
    for word in shlex.split(command):
        parts = [_last(part) for part in word.split(" ")]
        words.append(" ".join(parts))
    return shlex.join(words)


def _last(word: str) -> str:
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{PurePath(value).name}" if value.startswith("/") else word


def read_summary(folder: Path) -> dict[str, Any]:
    """sweep.json of a sweep's directory or of published results.

    Raises UserError where there is none, or a point in it lacks what every one has.
    """
    path = folder / SUMMARY
    if not path.is_file():
        raise UserError(f"{folder} holds no sweep (no sweep.json)")
    summary = read_json(path)
    if summary.get("format") != FORMAT:
        raise UserError(f"{path} must be the summary of a sweep in format {FORMAT}, got {summary.get('format')!r}")
    if not isinstance(summary.get("points"), list):
        raise UserError(f"{path} must hold a list of points, got {type(summary.get('points')).__name__}")
    for number, record in enumerate(summary["points"], 1):
        where = f"point {number} of {path}"
        done = with_all(("name", "status"), record, where)["status"] == DONE
        read_point(with_all(_OF_RESULT, record, where) if done else record, where, "target_")
    return summary
