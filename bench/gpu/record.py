"""The result file, written after every case, and the table of targets."""

from __future__ import annotations

import json
import statistics
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import measure

SMOKE_NOTE = "A smoke run: the program was tried on tiny shapes, nothing was timed that counts."


def results_folder(given: Path | None, default: str, *, smoke: bool) -> Path:
    """Where results go: `default` keeps those that count, a smoke run that was given no folder stays away from it."""
    return given or Path("build/smoke" if smoke else default)


@dataclass(frozen=True)
class Target:
    """What an issue asks of one row: its value at most `limit`, or at least, in the row's unit."""

    text: str
    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass
class Record:
    """Rows so far. `path` is written after each; what was skipped or failed is kept beside them.

    smoke: the program was tried on tiny shapes, and no time counts; the file and the table say so
    """

    folder: Path
    machine: dict[str, Any] = field(default_factory=measure.machine)
    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    file: str = "gpu.json"
    smoke: bool = False

    @property
    def path(self) -> Path:
        return measure.folder(self.folder, self.machine) / self.file

    def add(
        self,
        family: str,
        case: str,
        metric: str,
        unit: str,
        value: float,
        *,
        target: Target | None = None,
        rivals: dict[str, float] | None = None,
        floor: float | None = None,
        spread: list[float] | None = None,
        **more: Any,
    ) -> None:
        row = {
            "family": family,
            "case": case,
            "metric": metric,
            "unit": unit,
            "value": value,
            "rivals": rivals or {},
            "floor": floor,
            "spread": spread,
            **more,
        }
        if target is not None:
            row["target"] = {"text": target.text, "limit": target.limit, "met": target.met(value)}
            row["target"] |= {"at_least": True} if target.at_least else {}
        self.rows.append(row)
        self.save()
        print(_line(row), flush=True)

    def skip(self, case: str, why: str) -> None:
        self.skipped.append({"case": case, "why": why})
        self.save()

    def fail(self, case: str, error: Exception) -> None:
        traceback.print_exception(error)
        self.failed.append({"case": case, "why": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"})
        self.save()

    def save(self) -> None:
        content: dict[str, Any] = {"machine": self.machine, **({"smoke": SMOKE_NOTE} if self.smoke else {})}
        content |= {"rows": self.rows, "skipped": self.skipped, "failed": self.failed}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(self.path)

    def targets(self) -> str:
        """The rows with a target as a Markdown table, then what is missing."""
        lines = ["| target | case | measured | limit | |", "| --- | --- | --- | --- | --- |"]
        on_gpu = self.machine["device"] != "cpu"
        for row in (row for row in self.rows if "target" in row):
            target = row["target"]
            verdict = "tiny shapes" if self.smoke else "met" if target["met"] else "MISSED"
            verdict = verdict if on_gpu else "not on a GPU"
            if row.get("backend") == "reference":
                verdict += ", on the reference"
            value, limit = f"{row['value']:.4g} {row['unit']}", f"{target['limit']:.4g} {row['unit']}"
            lines.append(f"| {target['text']} | {row['family']}, {row['case']} | {value} | {limit} | {verdict} |")
        lines += [f"| | {item['case']} | skipped | | {item['why']} |" for item in self.skipped]
        lines += [f"| | {item['case']} | FAILED | | {item['why']} |" for item in self.failed]
        return "\n".join([*lines, *(["", SMOKE_NOTE] if self.smoke else [])])


def summary(times: list[float]) -> tuple[float, list[float]]:
    """Median and quartiles."""
    return statistics.median(times), measure.spread(times)


def _line(row: dict[str, Any]) -> str:
    rivals = ", ".join(f"{name} {value:.4g}" for name, value in row["rivals"].items())
    floor = "" if row["floor"] is None else f", floor {row['floor']:.4g}"
    wrong = f" WRONG: {', '.join(row['wrong'])}" if row.get("wrong") else ""
    return f"{row['family']}, {row['case']}: {row['value']:.4g} {row['unit']}{floor}{wrong}" + (
        f" ({rivals})" if rivals else ""
    )
