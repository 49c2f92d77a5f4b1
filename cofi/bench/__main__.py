"""`python -m cofi.bench DIR`: latency of a pruned model against its original and the rivals, sublayer by sublayer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console

from cofi.bench.explain import Explanation, explain, sublayer_table, total_table
from cofi.bench.results import Case, to_rows, to_table
from cofi.bench.subjects import COMPACT, Inputs, Models, Subject, find_subjects, load_models
from cofi.cli import Parser, positive, run, write_json
from cofi.errors import UserError
from cofi.machine import machine_info, pick_device, set_threads
from cofi.measure.rate import gauged_rounds, undisturbed_gflops
from cofi.measure.speedup import Differs
from cofi.measure.timing import RIVAL_PAUSE_S
from cofi.memory import keep_freed_memory
from cofi.models import from_lists

LOOK_S = 4.0  # to see what the machine makes when it is left alone


def build_parser() -> Parser:
    parser = Parser("python -m cofi.bench", __doc__)
    parser.add_argument("directory", metavar="DIR", help="directory of a compact model, or of a run")
    parser.add_argument("--dense", metavar="ID|DIR", help="the dense original; by default the teacher a run has kept")
    parser.add_argument(
        "--batch-size", type=positive, nargs="+", default=[1, 8, 32], metavar="N", help="sequences (default: 1 8 32)"
    )
    parser.add_argument(
        "--seq-len", type=positive, nargs="+", default=[32, 128], metavar="N", help="tokens of each (default: 32 128)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=20, metavar="N", help="rounds to count for a case (default: 20)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="a case starts no round after this (default: 60)")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; by default what PyTorch chooses")
    parser.add_device_flag()
    parser.add_json_flag()
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    options = build_parser().parse(argv)
    if not options.seconds > 0:
        raise UserError(f"--seconds must be above 0, got {options.seconds}")
    return options


def measure(
    options: argparse.Namespace,
    models: Models,
    subjects: list[Subject],
    notes: list[str],
    device: torch.device,
    gflops: float,
) -> tuple[list[Case], list[Explanation]]:
    """Every subject on every batch shape: outputs are compared before anything is timed; then the sublayers.

    A subject other than the compact model whose output differs is left out there, and `notes` say so. Rounds count
    where the machine makes `gflops`, as when it is left alone; notes say where there were none.
    """
    generator = torch.Generator().manual_seed(0)
    cases, explanations = [], []
    with torch.inference_mode():
        for length in options.seq_len:
            for size in options.batch_size:
                ids = _token_ids(models, (size, length), generator).to(device)
                inputs = Inputs(ids, torch.ones_like(ids))
                right = [subject for subject in subjects if _is_right(subject, inputs, notes)]
                found = gauged_rounds(
                    {subject.name: subject.prepare(inputs) for subject in right},
                    device,
                    options.rounds,
                    seconds=options.seconds,
                    gflops=gflops,
                    patience=1,
                    pause_s=RIVAL_PAUSE_S,
                )
                case = Case(size, length, found.timings, {s.name: s.gflop(size, length) for s in right})
                if found.disturbed:
                    notes.append(f"{case.name} was timed beside other work, at {found.gflops:,.0f} GFLOP/s.")
                cases.append(case)
                explanations.append(explain(models.compact, from_lists(ids.tolist()).to(device), case.name))
    return cases, explanations


def _is_right(subject: Subject, inputs: Inputs, notes: list[str]) -> bool:
    try:
        subject.check(inputs)
    except Differs as difference:
        if subject.name == COMPACT:
            raise
        size, length = inputs.input_ids.shape
        notes.append(f"No {subject.name} at {size} x {length}: {difference}.")
        return False
    return True


def _token_ids(models: Models, shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Random tokens, none of them padding: engines that count positions from the padding token would disagree."""
    ids = torch.randint(models.vocab_size, shape, generator=generator)
    padding = models.compact.config.pad_token_id
    return ids if padding is None else torch.where(ids == padding, (ids + 1) % models.vocab_size, ids)


def _check_lengths(lengths: list[int], longest: int) -> None:
    if max(lengths) > longest:
        raise UserError(f"--seq-len must be at most {longest}, the longest the models read, got {max(lengths)}")


def _caption(machine: dict[str, Any]) -> str:
    threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'} of {machine['cpu']}"
    return (
        f"{threads if machine['device'] == 'cpu' else machine['device']}, PyTorch {machine['torch']}. Medians of "
        "interleaved calls; spread: 10th to 90th percentile. Rounds count where PyTorch's product in fp32 makes "
        f"{machine['sgemm_gflops']:,.0f} GFLOP/s, as it does here without other work."
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    set_threads(options.threads)
    keep_freed_memory()
    device = pick_device(options.device)
    models = load_models(options.directory, options.dense, device)
    _check_lengths(options.seq_len, models.longest)
    subjects, notes = find_subjects(models, device)
    # with JSON on standard output the table goes where it does not mix with it
    console = Console(stderr=options.json == "-")
    with console.status("measuring"):
        gflops = undisturbed_gflops(device, LOOK_S)
        cases, explanations = measure(options, models, subjects, notes, device, gflops)
    machine: dict[str, Any] = machine_info(device) | {"sgemm_gflops": round(gflops, 1)}
    console.print(to_table(cases, options.directory, "\n".join([_caption(machine), *notes])))
    console.print(sublayer_table(explanations[-1]))
    console.print(total_table(explanations))
    if options.json is not None:
        explained = [explanation.to_dict() for explanation in explanations]
        write_json({"machine": machine, "rows": to_rows(cases), "explained": explained}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
