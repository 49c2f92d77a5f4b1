"""python -m bench.gpu: the training kernels and whole steps on this GPU: correct first, then timed, in one command.

With --inference the pruned encoder instead: see `python -m bench.gpu --inference --help`.
Writes DIR/<device>/gpu.json after every case and prints the targets, met and missed. --smoke tries the whole program on
tiny shapes, on a CPU too: it times nothing that counts, and without --output writes to build/smoke.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from bench import measure
from bench.gpu import blocks, gates, matching, norm, prune, step
from bench.gpu.bench import Bench
from bench.gpu.inference import run as inference
from bench.gpu.record import Record, results_folder
from bench.gpu.sizes import Sizes, smoke_sizes
from cofi_kernels import backends

# name -> what it runs, and the seconds that it takes at most, compilation included (guessed until measured)
CASES: dict[str, tuple[Callable[[Bench], None], float]] = {
    "gates": (gates.run, 20),
    "layer_match": (matching.run, 45),
    "masked_ffn": (partial(blocks.run, blocks.FFN), 75),
    "masked_attention": (partial(blocks.run, blocks.ATTENTION), 75),
    "masked_layer_norm": (norm.run, 30),
    "step": (step.run, 60),
    "prune": (prune.run, 80),
    "compiled_step": (step.run_compiled, 130),
}
INFERENCE = "--inference"
RESULTS = "bench/results"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument(INFERENCE, action="store_true", help="the pruned encoder, with options of its own")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases to run")
    parser.add_argument("--budget-seconds", type=float, default=450.0, help="start no case that may end later")
    parser.add_argument("--output", type=Path, help=f"directory of <device>/gpu.json, {RESULTS} by default")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes; on a CPU too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if INFERENCE in arguments:
        return inference.main([argument for argument in arguments if argument != INFERENCE])
    options = parse(arguments)
    if measure.device() == "cpu" and not options.smoke:
        raise SystemExit("bench.gpu needs a CUDA device; --smoke tries the program on a CPU")
    started = time.monotonic()
    torch.manual_seed(0)
    print(backends(), flush=True)
    record = Record(results_folder(options.output, RESULTS, smoke=options.smoke), smoke=options.smoke)
    bench = Bench(smoke_sizes() if options.smoke else Sizes(), record, options.smoke)
    for name in options.only:
        run, seconds = CASES[name]
        left = options.budget_seconds - (time.monotonic() - started)
        if left < (1 if options.smoke else seconds):
            bench.record.skip(name, f"{left:.0f} s left, it may take {seconds:.0f} s")
            continue
        bench.attempt(name, partial(run, bench))
    print(f"\n{bench.record.targets()}\n\n{time.monotonic() - started:.0f} s, {bench.record.path}", flush=True)
    return 1 if bench.record.failed else 0


if __name__ == "__main__":
    sys.exit(main())
