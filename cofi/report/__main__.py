"""`python -m cofi.report DIR`: write the report of a run anew, or of a run that is still going on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cofi.cli import Parser, run
from cofi.report.html import write_report
from cofi.report.reading import read_run
from cofi.report.tables import summary_table


def build_parser() -> Parser:
    parser = Parser("python -m cofi.report", __doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="the --output directory of a run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    directory = build_parser().parse(argv).directory
    page = write_report(directory)
    result, console = read_run(directory).result, Console()
    if result:
        console.print(summary_table(result))
    console.print(f"report: {page}", highlight=False, soft_wrap=True, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
