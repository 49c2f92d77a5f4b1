"""python -m bench.tables FILE...: result files as Markdown tables, for documents."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def markdown(result: dict[str, Any]) -> str:
    """One table, a line a row: gain over the best rival that is not ours, share of the machine's own GEMM rate."""
    rivals = list(dict.fromkeys(name for row in result["rows"] for name in row["rivals"]))
    unit = result["rows"][0]["unit"] if result["rows"] else ""
    head = ["case", f"ours ({unit})", *rivals, "gain over the best", "share of GEMM peak"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in result["rows"]:
        case = row["case"] + (" †" if row.get("disturbed") else "")
        cells = [case, number(row["value"]), *(number(row["rivals"].get(name)) for name in rivals)]
        foreign = [value for name, value in row["rivals"].items() if not name.startswith("ours")]
        gain = min(foreign) / row["value"] if foreign else None
        share = row.get("share_of_gemm_peak")
        cells += ["-" if gain is None else f"{gain:.2f}x", "-" if share is None else f"{share:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    machine = result["machine"]
    where = ", ".join(f"{name} {machine[name]}" for name in ("cpu", "threads", "torch", "commit", "date"))
    beside = " †: beside other work." if any(row.get("disturbed") for row in result["rows"]) else ""
    return "\n".join([*lines, "", f"Machine: {where}.{beside}"])


def number(value: float | None) -> str:
    """A cell of a table: three digits, and all of those before the point."""
    return "-" if value is None else f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tables", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    for file in parser.parse_args(arguments).files:
        print(markdown(json.loads(file.read_text())), end="\n\n")  # noqa: T201


if __name__ == "__main__":
    main()
