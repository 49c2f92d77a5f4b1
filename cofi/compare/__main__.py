"""Compare the methods of one or more sweeps at equal size and at equal measured speed: a table and the plots.

The variant named by --reference is held against every other one in each task; the end says where it does not win.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cofi.cli import Parser
from cofi.cli import run as run_command
from cofi.compare.table import report
from cofi.errors import UserError
from cofi.files import write_atomically
from cofi.sweep.figures import draw
from cofi.sweep.results import read_summary
from cofi.sweep.store import DONE
from cofi.sweep.summary import Record, is_disturbed


def build_parser() -> Parser:
    parser = Parser("python -m cofi.compare", __doc__)
    parser.add_argument(
        "directories", nargs="+", type=Path, metavar="DIR", help="directory of a sweep, or its --results"
    )
    parser.add_argument("--reference", default="default", metavar="NAME", help="variant the others are held against")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="only these, beside the reference")
    parser.add_argument("--tasks", nargs="+", metavar="T", help="only these tasks")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write compare.md and the plots there")
    return parser


def read_points(directories: Sequence[Path]) -> list[Record]:
    """The finished points of all sweeps, of one that is there several times the record with the best speed.

    Raises UserError where a point is there twice with different results.
    """
    found: dict[str, tuple[Record, Path]] = {}
    for folder in directories:
        for record in read_summary(folder)["points"]:
            if record.get("status") != DONE:
                continue
            other, where = found.setdefault(record["name"], (record, folder))
            if other["score"] != record["score"]:
                raise UserError(
                    f"{record['name']} must be in one sweep only, or the same in all: {where} has score "
                    f"{other['score']:.2f}, {folder} {record['score']:.2f}; give the variant of one another name"
                )
            if _timing(record) > _timing(other):
                found[record["name"]] = record, folder
    return [record for record, _ in found.values()]


def _timing(record: Record) -> int:
    """0: not timed, 1: beside other work, 2: with the machine left alone."""
    return 0 if "speedup" not in record else 1 if is_disturbed(record) else 2


def select(records: list[Record], reference: str, variants: list[str] | None, tasks: list[str] | None) -> list[Record]:
    """The points that were asked for, the reference first. Raises UserError for a name that no point has."""
    for option, names, key in (("--tasks", tasks, "task"), ("--variants", variants, "variant")):
        there = sorted({record[key] for record in records})
        unknown = [name for name in names or () if name not in there]
        if unknown:
            raise UserError(f"{option} must be of {', '.join(there)}, got {unknown[0]!r}")
    there = list(dict.fromkeys(record["variant"] for record in records))
    if reference not in there:
        raise UserError(f"--reference must be one of {', '.join(there) or 'no finished variant'}, got {reference!r}")
    kept = [record for record in records if tasks is None or record["task"] in tasks]
    kept = [record for record in kept if variants is None or record["variant"] in [reference, *variants]]
    return sorted(kept, key=lambda record: record["variant"] != reference)


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse(argv)
    records = select(read_points(options.directories), options.reference, options.variants, options.tasks)
    text = report(records, options.reference)
    Console().print(text, highlight=False, soft_wrap=True, markup=False)
    if options.output is not None:
        try:
            options.output.mkdir(parents=True, exist_ok=True)
            write_atomically(options.output / "compare.md", text.encode())
            for name, png in draw(records).items():
                write_atomically(options.output / name, png)
        except OSError as error:
            raise UserError(f"--output {options.output} cannot be written: {error.strerror or error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
