"""python -m bench.inference: latency of pruned encoders on the CPU against rivals, from token ids to logits.

Outputs are compared before anything is timed; rounds are interleaved, and count where the cores are left alone, for
which a row waits up to twelve times as long; rivals pad to the longest sentence of a batch, ours computes tokens only.
Writes DIR/<processor>/inference.json, where rows of other cases are kept, and prints it as a table.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from torch import Tensor

from bench import measure, sentences, structures, tables
from bench.rivals import RIVALS
from bench.structures import Structure, build
from cofi.measure.rate import gauged_rounds, undisturbed_gflops
from cofi.measure.timing import RIVAL_PAUSE_S, Timing
from cofi.memory import keep_freed_memory
from cofi.models import CompactModel, in_precision
from cofi_kernels.products import matmul
from cofi_kernels.testing import relative_error

OURS = "ours"
CPU = torch.device("cpu")
LOOK_S = 8.0  # to see what the machine makes when it is left alone
# of the largest logit: engines sum in any order; and logits of random weights are small differences of large numbers
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.1}
LOW = {f"{OURS} {precision}": precision for precision in ("bf16", "int8")}
# lengths of the sentences of a batch, or the task whose first sentences it takes
CASES: dict[str, list[int] | str] = {
    "1 x 32": [32],
    "1 x 128": [128],
    "8 x 128": [128] * 8,
    "32 x 128": [128] * 32,
    "32 of sst2": "sst2",
    "32 of rte": "rte",
}


def batch(lengths: list[int]) -> tuple[Tensor, Tensor]:
    """input_ids and attention_mask, padded to the longest."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 30000, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


def precision_of(engine: str) -> str:
    return RIVALS[engine].precision if engine in RIVALS else LOW.get(engine, "fp32")


def own_gemm_flops_per_s() -> float:
    """The machine's rate just now: the better of our product and PyTorch's, 1024 cubed."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    best = min(min(measure.seconds(run, 1) for _ in range(10)) for run in (lambda: matmul(a, b), lambda: a @ b))
    return 2 * 1024**3 / best


@torch.inference_mode()
def contest(
    name: str,
    case: str,
    structure: Structure,
    lengths: list[int],
    engines: dict[str, Any],
    seconds: float,
    gflops: float,
) -> list[dict[str, Any]]:
    """A row for each precision of ours, from one measurement."""
    ids, mask = batch(lengths)
    want = engines[OURS](ids, mask)
    for rival, engine in engines.items():
        error = relative_error(engine(ids, mask), want)
        if not error <= TOLERANCES[precision_of(rival)]:
            raise SystemExit(f"{name}, {case}: {rival} differs from ours by {error:.1e}: nothing was timed")
    runs = {rival: functools.partial(engine, ids, mask) for rival, engine in engines.items()}
    peak = own_gemm_flops_per_s()
    found = gauged_rounds(runs, CPU, 200, seconds=seconds, gflops=gflops, pause_s=RIVAL_PAUSE_S)
    times = found.timings
    floor = structure.flops(lengths) / peak
    rivals = {engine: t for engine, t in times.items() if engine in RIVALS}
    alike = {engine: t for engine, t in rivals.items() if precision_of(engine) == "fp32"}
    facts = {"floor": round(1e3 * floor, 4), "gemm_gflop_per_s": round(peak / 1e9, 1)}
    share = {"share_of_gemm_peak": round(floor / times[OURS].median_s, 3)}
    rows = [row(f"{name}, {case}", times[OURS], alike) | facts | share]
    for engine, precision in LOW.items():
        rows.append(row(f"{name} {precision}, {case}", times[engine], {**rivals, "ours fp32": times[OURS]}))
    state = {"rounds": times[OURS].rounds, "gauge_gflop_per_s": round(found.gflops, 1), "disturbed": found.disturbed}
    return [entry | state for entry in rows]


def row(case: str, ours: Timing, others: dict[str, Timing]) -> dict[str, Any]:
    """`ours` stands among the others too where it is another precision of ours that is measured."""
    rivals = {rival: round(t.median_s * 1e3, 4) for rival, t in others.items()}
    return {
        "family": "inference",
        "case": case,
        "metric": "latency, ids to logits",
        "unit": "ms",
        "value": round(ours.median_s * 1e3, 4),
        "rivals": rivals,
        "spread": [round(t * 1e3, 4) for t in (ours.p10_s, ours.p90_s)],
    }


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.inference", description=__doc__)
    parser.add_argument("--structures", type=Path, help=structures.HELP)
    parser.add_argument("--only", nargs="+", metavar="STRUCTURE", help="structures to measure")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="batches to measure")
    parser.add_argument("--data", type=Path, default=sentences.data_folder(), help=sentences.HELP)
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="of timing for each row")
    parser.add_argument(
        "--output", type=Path, default=Path("bench/results"), help="inference.json goes into a folder of it"
    )
    return parser.parse_args(arguments)


def measure_all(options: argparse.Namespace, console: Console) -> list[dict[str, Any]]:
    wanted = structures.chosen(options.structures, options.only)
    say = functools.partial(console.print, markup=False, soft_wrap=True)
    cases = sentences.of_cases({case: CASES[case] for case in options.cases}, options.data, say)
    gflops = undisturbed_gflops(CPU, LOOK_S)
    say(f"rounds count where PyTorch's product of 512 x 512 makes {gflops:.0f} GFLOP/s, as it does here by itself")
    rows = []
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(wanted) * len(cases))
        for name, structure in wanted.items():
            torch.manual_seed(0)
            engines = prepare(build(structure, spread=0.0), options.rivals, console)
            for case, lengths in cases.items():
                progress.update(bar, description=f"{name}, {case}")
                rows.extend(contest(name, case, structure, lengths, engines, options.seconds, gflops))
                progress.advance(bar)
    return rows


def own_engine(model: CompactModel) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits


def prepare(model: CompactModel, rivals: list[str], console: Console) -> dict[str, Callable[..., Tensor]]:
    engines: dict[str, Callable[..., Tensor]] = {OURS: own_engine(model)}
    engines |= {name: own_engine(in_precision(model, precision)) for name, precision in LOW.items()}
    for rival in rivals:
        if missing := RIVALS[rival].missing:
            console.print(f"without {rival}: {', '.join(missing)} not installed (pip install {' '.join(missing)})")
        else:
            engines[rival] = RIVALS[rival].make(model)
    return engines


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # rivals gain as well
    console = Console(stderr=True)
    result = measure.write_rows(options.output, "inference.json", measure_all(options, console))
    Console(width=200).print(tables.markdown(result), markup=False)


if __name__ == "__main__":
    main()
