"""Run a grid of prunings, tasks x sparsities x seeds x variants, and put the results into one table and plots.

Each task gets one fine-tuned teacher, which all its points share. A sweep that was stopped or killed goes on where it
was when the same command is given again; a point that fails is noted, and the others go on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from cofi.cli import EXIT_SIGNAL
from cofi.cli import run as run_command
from cofi.errors import UserError
from cofi.machine import machine_info, pick_device, set_threads
from cofi.sweep.measuring import Measurer, in_words
from cofi.sweep.options import Options, parse
from cofi.sweep.plan import Point
from cofi.sweep.results import check_publishable, publish, read_summary, write_documents, write_summary
from cofi.sweep.retiming import retime, untimed
from cofi.sweep.running import Sweep
from cofi.sweep.store import SUMMARY, Store, locked, make_directory
from cofi.sweep.summary import known_rates
from cofi.train.interrupt import Interrupted

EXIT_FAILED = 1  # the sweep went through, but not every point has a result


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    console = Console()
    store = Store(options.output)
    planned: list[Point] = []
    if options.grid is not None:
        options.grid.check_inputs()
        planned = options.grid.points()
    if options.dry_run:
        return show_plan(store, planned, console)
    disable_progress_bar()  # transformers' own, for writing one file
    set_threads(options.settings.get("threads"))
    machine = machine_info(pick_device(options.settings.get("device", "auto")))
    with locked(options.output, "--output"):
        return _work(options, store, planned, machine, console)


def _work(options: Options, store: Store, planned: list[Point], machine: dict[str, Any], console: Console) -> int:
    def refresh(*, plots: bool = False) -> dict[str, Any]:
        summary = write_summary(store.summary, store.records(planned), options.command, machine)
        write_documents(store.root, summary, plots=plots)
        return summary

    failures = 0
    try:
        sweep = None
        if options.grid is not None:
            make_directory(options.grid.teachers, "--teachers")
            sweep = Sweep(options.grid, store, console, keep_checkpoints=options.keep_checkpoints)
        if options.results is not None:
            check_publishable(options.results, [*store.records([]), *(sweep.planned() if sweep else [])])
        if sweep is not None:
            failures = sweep.run(refresh)
        if options.measure:
            measure(options, store, machine, console)
    except Interrupted as stop:
        refresh(plots=True)
        sys.stderr.write(f"stopped by {stop}; saved. Give the same command again to go on\n")
        return EXIT_SIGNAL + stop.signum
    summary = refresh(plots=True)
    if options.results is not None:
        publish(options.results, summary)
    text = f"{(store.root / 'table.md').read_text(encoding='utf-8')}\ntable and plots: {store.root}"
    console.print(text, highlight=False, soft_wrap=True, markup=False)
    return EXIT_FAILED if failures else 0


def measure(options: Options, store: Store, machine: dict[str, Any], console: Console) -> None:
    """Time every finished point that was not, or beside other work alone.

    With --retime those timed elsewhere too, here and in --results.
    """
    records = store.records([])
    names = {record["name"] for record in untimed(records, machine if options.retime else None)}
    left = [point for point in store.found() if point.name in names]
    if options.results is not None and (options.results / SUMMARY).exists():
        records += read_summary(options.results)["points"]
    measurer = Measurer(options.settings, known_rates(records, machine))
    if left:
        console.print(measurer.announcement)
    for number, point in enumerate(left, 1):
        words = in_words(point.name, measurer.measure(store.place(point)))
        console.print(f"measured {number} of {len(left)}: {words}", highlight=False, soft_wrap=True)
    if options.retime:
        assert options.results is not None  # or the command would have been refused
        retime(options.results, store, measurer, options.settings, machine, console)


def show_plan(store: Store, planned: list[Point], console: Console) -> int:
    """--dry-run: every point in the order of running, and where it stands."""
    if not planned:
        raise UserError("--dry-run needs --tasks: without them nothing is planned")
    for number, point in enumerate(planned, 1):
        line = f"{number:4d}  {store.place(point).status:8s} {point.name}"
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
