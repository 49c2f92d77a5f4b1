"""python -m bench.gpu --inference: the pruned encoder on this GPU, correct first, then timed from packed ids to logits.

Each rung of ours on s95, s80, s60 and dense, against eager, compiled and graph-captured PyTorch and ONNX Runtime.
Writes DIR/<device>/inference.json after every row and prints the targets, met and missed. What no time is left for is
recorded as skipped; a rung that errs too much is recorded and never timed. --smoke tries the whole program on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench import measure, sentences, structures
from bench.gpu.bench import Bench
from bench.gpu.inference import batches, correctness, table, timing
from bench.gpu.inference.session import MNLI, Clock, Session, Sizes
from bench.gpu.inference.subject import by_triton, encoder_by
from bench.gpu.record import Record, results_folder
from bench.gpu.sizes import Sizes as CeilingSizes
from bench.gpu.sizes import smoke_sizes as ceiling_smoke_sizes
from cofi_kernels import backends

MNLI_SENTENCES = 4096
RESULTS = "bench/results/gpu"
DENSE = structures.DENSE
EVEN = {"1 x 128": [128], "8 x 128": [128] * 8, "32 x 128": [128] * 32, "128 x 128": [128] * 128}
# the most wanted first: what no time is left for is at the end
TIMED = (
    *(("s95", name) for name in ("1 x 128", "128 x 128", MNLI, "32 x 128", "8 x 128")),
    *((name, batch) for batch in ("32 x 128", "1 x 128", "128 x 128", "8 x 128") for name in ("s80", "s60", DENSE)),
)
ITEM_S, GAIN_S, CORRECTNESS_S, THREADS_S = 9.0, 12.0, 60.0, 15.0  # at most, without compiling rivals; guessed


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu --inference", description=__doc__)
    parser.add_argument("--structures", type=Path, help=structures.HELP)
    parser.add_argument("--data", type=Path, default=sentences.data_folder(), help="folder with mnli/: its own lengths")
    parser.add_argument("--only", nargs="+", metavar="STRUCTURE", help="structures to check and to time")
    parser.add_argument("--budget-seconds", type=float, default=460.0, help="end within this time, as far as known")
    parser.add_argument("--output", type=Path, help=f"directory of <device>/inference.json, {RESULTS} by default")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a result file, run nothing")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes; on a CPU too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.table is not None:
        print(table.of_file(options.table))
        return 0
    if measure.device() == "cpu" and not options.smoke:
        raise SystemExit("bench.gpu needs a CUDA device; --smoke tries the program on a CPU")
    os.environ["COFI_UNVERIFIED_GPU"] = "triton"  # to verify it is what this is for; rung 3 is called by its name
    clock = Clock(options.budget_seconds)
    with contextlib.ExitStack() as stack:
        if measure.device() == "cpu":
            stack.enter_context(encoder_by(by_triton))
        session = make_session(options, clock)
        print(backends(), flush=True)
        run_items(session, items(session))
    record = session.record
    print(f"\n{record.targets()}\n\n{clock.elapsed:.0f} s, {record.path}", flush=True)
    return 1 if record.failed else 0


def make_session(options: argparse.Namespace, clock: Clock) -> Session:
    sizes = smoke_sizes() if options.smoke else full_sizes(options)
    output = results_folder(options.output, RESULTS, smoke=options.smoke)
    record = Record(output, file="inference.json", smoke=options.smoke)
    ceilings = ceiling_smoke_sizes() if options.smoke else CeilingSizes()
    return Session(sizes, record, clock, Bench(ceilings, record, options.smoke), options.smoke)


def full_sizes(options: argparse.Namespace) -> Sizes:
    named = structures.chosen(options.structures, options.only)
    lengths = batches.real_mnli(MNLI_SENTENCES, options.data) or batches.mnli_like(MNLI_SENTENCES)
    timed = tuple((name, batch) for name, batch in TIMED if name in named)
    return Sizes(named, {**EVEN, MNLI: lengths}, timed, (torch.bfloat16, torch.float16))


def smoke_sizes() -> Sizes:
    """fp16 alone: in the interpreter products of bf16 are wrong."""
    lengths = {"128 x 128": [5, 5], MNLI: batches.mnli_like(2, longest=14)}
    timed = (("s95", "128 x 128"), ("s95", MNLI))
    ragged = (9, 1, 3)
    return Sizes(structures.TINY, lengths, timed, (torch.float16,), ragged, rounds=2, threads=2, calls=2)


def items(session: Session) -> list[tuple[str, Callable[[], None], float]]:
    """name, what it runs, the seconds that it takes at most without compilations of rivals."""
    sizes = session.sizes
    found: list[tuple[str, Callable[[], None], float]] = []
    for dtype in sizes.dtypes:
        name = str(dtype).removeprefix("torch.")
        found.append((f"correctness, {name}", partial(correctness.states, session, dtype), CORRECTNESS_S))
        if dtype == sizes.dtypes[0]:
            found.append(("correctness, buckets", partial(correctness.buckets, session, dtype), THREADS_S))
            found.append(("correctness, threads", partial(correctness.threads, session, dtype), THREADS_S))
    if {"s95", DENSE} <= set(sizes.structures):  # before others compile: its rivals must be in their best form
        found.append(("s95 against dense", partial(timing.run_gain, session), GAIN_S))
    for structure, batch in sizes.timed:
        found.append((f"{structure}, {batch}", partial(timing.run, session, structure, batch), ITEM_S))
    return found


def run_items(session: Session, wanted: list[tuple[str, Callable[[], None], float]]) -> None:
    for i, (name, run, seconds) in enumerate(wanted):
        session.clock.reserved = sum(later for *_, later in wanted[i + 1 :])
        if session.clock.left < (1.0 if session.smoke else seconds):
            session.record.skip(name, f"{max(session.clock.left, 0):.0f} s left, it may take {seconds:.0f} s")
            continue
        start = time.monotonic()
        try:
            run()
        except Exception as error:
            session.record.fail(name, error)
        if session.device == "cuda":
            torch.cuda.empty_cache()
        print(f"  {name}: {time.monotonic() - start:.0f} s", flush=True)
