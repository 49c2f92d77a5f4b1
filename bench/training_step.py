"""python -m bench.training_step: a whole pruning step of BERT-base on the CPU, distillation and optimizers included.

The unit is forward and backward of the same model in Hugging Face's eager code: dense, unmasked, in training mode.
Losses and gradients are compared with COFI_BACKEND=reference before anything is timed; rounds are interleaved. Memory
is the peak of a process of its own, over what it had with everything imported. Writes
DIR/<processor>/training_step.json and prints it as a table.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from bench import measure, sentences, structures, tables
from bench.training_subjects import OursStep, hf_step, official_step
from cofi.memory import keep_freed_memory
from cofi_kernels import force_backend
from cofi_kernels.testing import relative_error

TOLERANCE = 2e-4  # of a tensor's largest gradient: twelve layers of fp32 sums taken in another order
CHECKED_LENGTHS = [128, 40, 9, 25]  # a small batch: the reference takes many times as long
PADDED = [128] * 32


class Row(NamedTuple):
    structure: str
    cached: bool
    lengths: str  # "padded": 32 sentences of 128 tokens; otherwise the task whose sentences they are
    target: float | None  # in units


FILE = "training_step.json"
ROWS = {
    "dense, teacher computed": Row("dense", False, "padded", 1.4),
    "dense, cached": Row("dense", True, "padded", 1.0),
    "s60, cached": Row("s60", True, "padded", 0.5),
    "s95, cached": Row("s95", True, "padded", 0.08),
    "dense, cached, sst2": Row("dense", True, "sst2", None),
    "s60, cached, sst2": Row("s60", True, "sst2", None),
    "s95, cached, sst2": Row("s95", True, "sst2", None),
}
MEMORY = ("hf eager", "official scheme")  # processes of their own beside those of the rows


def lengths_of(names: list[str], options: argparse.Namespace, say: Callable[[str], Any]) -> dict[str, list[int]]:
    """Of the rows `names`, without those that need sentences which are not there."""
    wanted = {name: PADDED if ROWS[name].lengths == "padded" else ROWS[name].lengths for name in names}
    return sentences.of_cases(wanted, options.data, say)


def make(row: Row, options: argparse.Namespace, lengths: list[int]) -> OursStep:
    return OursStep(structures.chosen(options.structures)[row.structure], lengths, cached=row.cached)


def check(row: Row, options: argparse.Namespace, known: dict[tuple[str, bool], float]) -> float:
    """How far the loss and every gradient are from the reference, at most; ends the run where that is too far."""
    key = (row.structure, row.cached)
    if key not in known:
        step = make(row, options, CHECKED_LENGTHS)
        with force_backend("reference"):
            want = step.gradients()
        got = step.gradients()
        error, name = max((relative_error(got[name], want[name]), name) for name in want)
        if not error <= TOLERANCE:
            raise SystemExit(f"{row}: {name} differs from the reference by {error:.1e}: nothing was timed")
        known[key] = error
    return known[key]


def contest(names: list[str], options: argparse.Namespace, say: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Steps of all rows and the unit in turns."""
    known: dict[tuple[str, bool], float] = {}
    lengths = lengths_of(names, options, say)
    errors = {name: check(ROWS[name], options, known) for name in lengths}
    steps = {name: make(ROWS[name], options, lengths[name]) for name in lengths}
    unit = hf_step(PADDED)
    runs: dict[str, Callable[[], Any]] = {"unit": unit, **{name: step.run for name, step in steps.items()}}
    for run in runs.values():
        run()
    for step in steps.values():
        step.parts.clear()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for done in range(options.rounds):
        for name, run in runs.items():
            for _ in range(1 if name == "unit" else options.repeats):
                times[name].append(measure.seconds(run, 1))
        say(f"round {done + 1}: " + ", ".join(f"{k} {v[-1]:.3f} s" for k, v in times.items()))
    return [_row(name, times, steps[name], sum(lengths[name]), errors[name]) for name in lengths]


def _row(name: str, times: dict[str, list[float]], step: OursStep, tokens: int, error: float) -> dict[str, Any]:
    """In units: the shortest times, as a neighbour on the machine can only add to one."""
    unit, ours = (statistics.median(times[key]) for key in ("unit", name))
    in_units = min(times[name]) / min(times["unit"])
    return {
        "family": "training_step",
        "case": name,
        "metric": "time of a whole step",
        "unit": "s",
        "value": round(ours, 4),
        "rivals": {"hf eager forward + backward, 32 x 128": round(unit, 4)},
        "in_units": round(in_units, 4),
        "seconds": {key: [round(t, 4) for t in times[key]] for key in ("unit", name)},
        "target_in_units": ROWS[name].target,
        "tokens": tokens,
        "parts": {part: round(statistics.median(values), 4) for part, values in step.parts.items()},
        "floor": None,
        "spread": [round(t, 4) for t in measure.spread(times[name])],
        "error_against_reference": float(f"{error:.1e}"),
    }


def memory_of(name: str, options: argparse.Namespace) -> float:
    """Peak GiB of two steps in a process of its own."""
    command = [sys.executable, "-m", "bench.training_step", "--memory-of", name, "--threads", str(options.threads)]
    for flag, path in (("--structures", options.structures), ("--data", options.data)):
        command += [] if path is None else [flag, str(path.absolute())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=measure.ROOT)
    return float(done.stdout.split()[-1])


def _high_water() -> int:
    """KiB. Of this program alone: what getrusage gives begins with what the parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _of_row(name: str, options: argparse.Namespace) -> Callable[[], Any]:
    return make(ROWS[name], options, lengths_of([name], options, print)[name]).run


def _peak(name: str, options: argparse.Namespace) -> float:
    before = _high_water()
    makers: dict[str, Callable[[], Callable[[], Any]]] = {
        "hf eager": functools.partial(hf_step, PADDED),
        "official scheme": functools.partial(official_step, PADDED),
    }
    run = makers[name]() if name in makers else _of_row(name, options)
    run()
    run()
    return (_high_water() - before) / 2**20


def add_memory(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Of the rows as large as the rivals' batch."""
    rows = [row for row in rows if ROWS[row["case"]].lengths == "padded"]
    rivals = {name: round(memory_of(name, options), 3) for name in MEMORY} if rows else {}
    for row in rows:
        ours = round(memory_of(row["case"], options), 3)
        share = round(ours / rivals["official scheme"], 3)
        row["memory_gib"] = {"ours": ours, **rivals, "share_of_official": share}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.training_step", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), help="rows to measure")
    parser.add_argument("--structures", type=Path, help=structures.HELP)
    parser.add_argument("--data", type=Path, default=sentences.data_folder(), help=sentences.HELP)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1, help="steps of ours in a round")
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument(
        "--output", type=Path, default=Path("bench/results"), help="training_step.json goes into a folder of it"
    )
    parser.add_argument("--memory-of", choices=[*ROWS, *MEMORY], help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.memory_of not in MEMORY:  # as cofi.train does; the rivals' time gains by it too, their memory does not
        keep_freed_memory()
    if options.memory_of:
        print(_peak(options.memory_of, options))  # noqa: T201
        return
    console = Console(stderr=True)
    began = time.monotonic()
    rows = contest(options.only, options, functools.partial(console.print, markup=False, soft_wrap=True))
    result = measure.write_rows(options.output, FILE, rows, list(ROWS))
    if not options.no_memory:
        add_memory(rows, options)
        result = measure.write_rows(options.output, FILE, rows, list(ROWS))
    console.print(f"{time.monotonic() - began:.0f} s")
    Console(width=200).print(tables.markdown(result), markup=False)


if __name__ == "__main__":
    main()
