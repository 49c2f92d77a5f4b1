"""A result file as Markdown, for README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.tables import number


def of_file(file: Path) -> str:
    return markdown(json.loads(file.read_text()))


def markdown(result: dict[str, Any]) -> str:
    """Times, throughput and gain against the rivals; then where the time of the launches goes."""
    timed = [row for row in result["rows"] if row["family"] == "inference"]
    parts = [_times([row for row in timed if row["unit"] == "us"]), _others([r for r in timed if r["unit"] != "us"])]
    parts.append(_launches([row for row in result["rows"] if row["family"] == "launches"]))
    machine = result["machine"]
    where = ", ".join(f"{name} {machine[name]}" for name in ("device", "torch", "triton", "driver", "commit", "date"))
    missing = [f"{item['case']}: {item['why']}" for item in (*result["failed"], *result["skipped"])]
    notes = [f"Machine: {where}. Calls in a row, L2 warm, medians.", *(f"Not measured: {line}." for line in missing)]
    return "\n\n".join([part for part in parts if part] + notes)


def _times(rows: list[dict[str, Any]]) -> str:
    rungs = list(dict.fromkeys(name for row in rows for name in row["rungs"]))
    rivals = list(dict.fromkeys(name for row in rows for name in row["rivals"]))
    head = ["us, ids to logits", *(f"ours: {name}" for name in rungs), *rivals, "gain", "floor", "target", ""]
    lines = []
    for row in rows:
        cells = [row["case"], *(number(row["rungs"].get(name)) for name in rungs)]
        cells += [number(row["rivals"].get(name)) for name in rivals]
        best = min(row["rivals"].values(), default=None)
        cells += ["-" if best is None else f"{best / row['value']:.2f}x", number(row["floor"])]
        lines.append([*cells, *_target(row)])
    return _table(head, lines)


def _others(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        rivals = row["rivals"].items()
        best = min(rivals, key=lambda r: r[1]) if row["unit"] == "x" else max(rivals, key=lambda r: r[1], default=None)
        against = "-" if not best else f"{best[0]} {number(best[1])} {row.get('rivals_unit', row['unit'])}"
        value = f"{number(row['value'])} {row['unit']}"
        lines.append([f"{row['case']}, {row['metric']}", value, against, *_target(row)])
    return _table(["", "ours", "best rival", "target", ""], lines)


def _launches(rows: list[dict[str, Any]]) -> str:
    head = [
        "encoder",
        "launches",
        "predicted us",
        "measured us",
        "floor us",
        "share of floor",
        "around it us",
        "between us",
    ]
    lines = []
    for row in rows:
        share = row.get("share_of_floor")
        measured = "not available" if "profile" in row else number(row.get("encoder_us"))
        cells = [row["case"], f"{row['value']:.0f}", number(row["predicted_us"]), measured]
        cells += [
            number(row["floor"]),
            "-" if share is None else f"{share:.0%}",
            number(row.get("others_us")),
            number(row.get("idle_us")),
        ]
        lines.append(cells)
    return _table(head, lines)


def _target(row: dict[str, Any]) -> list[str]:
    target = row.get("target")
    return ["-", ""] if target is None else [number(target["limit"]), "met" if target["met"] else "MISSED"]


def _table(head: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
