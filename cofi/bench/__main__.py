"""`python -m cofi.bench DIR`: latency and throughput of a pruned model against its dense original and the rivals."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from rich.console import Console

from cofi.bench.results import Case, to_rows, to_table, write_json
from cofi.bench.subjects import Inputs, Models, Subject, find_subjects, load_models
from cofi.bench.timing import interleaved, machine_info, sgemm_gflops, synchronizer
from cofi.cli import run
from cofi.errors import UserError
from cofi.train.session import pick_device


class _Parser(argparse.ArgumentParser):
    """What is wrong with a flag is a UserError that lists the valid ones."""

    def error(self, message: str) -> NoReturn:
        flags = sorted(name for action in self._actions for name in action.option_strings if name.startswith("--"))
        raise UserError(f"{message} (flags: {', '.join(flags)})")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m cofi.bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR", help="directory of a compact model, or of a run")
    parser.add_argument("--dense", metavar="ID|DIR", help="the dense original; by default the teacher a run has kept")
    parser.add_argument("--batch-size", type=_positive, nargs="+", default=[1, 8, 32], metavar="N", help="sequences")
    parser.add_argument("--seq-len", type=_positive, nargs="+", default=[32, 128], metavar="N", help="tokens of each")
    parser.add_argument("--rounds", type=_positive, default=20, metavar="N", help="timed calls of each model a case")
    parser.add_argument("--seconds", type=float, default=60.0, help="a case starts no round after this long")
    parser.add_argument("--threads", type=_positive, metavar="N", help="CPU threads; by default what PyTorch chooses")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...; auto takes a GPU if there is one")
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON; - for standard output")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text!r}")
    return int(text)


def _dashed(word: str) -> str:
    """--batch_size=8 as --batch-size=8; values stay as they are."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    given = sys.argv[1:] if argv is None else argv
    options = build_parser().parse_args([_dashed(word) for word in given])
    if not options.seconds > 0:
        raise UserError(f"--seconds must be above 0, got {options.seconds}")
    return options


def measure(options: argparse.Namespace, models: Models, subjects: list[Subject], device: torch.device) -> list[Case]:
    """Every subject on every batch shape: outputs are compared before anything is timed."""
    generator = torch.Generator().manual_seed(0)
    cases = []
    with torch.inference_mode():
        for length in options.seq_len:
            for size in options.batch_size:
                ids = _token_ids(models, (size, length), generator).to(device)
                inputs = Inputs(ids, torch.ones_like(ids))
                for subject in subjects:
                    subject.check(inputs)
                timings = interleaved(
                    {subject.name: subject.prepare(inputs) for subject in subjects},
                    options.rounds,
                    seconds=options.seconds,
                    synchronize=synchronizer(device),
                )
                cases.append(Case(size, length, timings, {s.name: s.gflop(size, length) for s in subjects}))
    return cases


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
        "interleaved calls; spread: 10th to 90th percentile. Matrix products in fp32 by PyTorch: "
        f"{machine['sgemm_gflops']:,.0f} GFLOP/s."
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    models = load_models(options.directory, options.dense, device)
    _check_lengths(options.seq_len, models.longest)
    subjects, notes = find_subjects(models, device)
    # with JSON on standard output the table goes where it does not mix with it
    console = Console(stderr=options.json == "-")
    machine: dict[str, Any] = machine_info(device) | {"sgemm_gflops": round(sgemm_gflops(device), 1)}
    with console.status("measuring"):
        cases = measure(options, models, subjects, device)
    console.print(to_table(cases, options.directory, "\n".join([_caption(machine), *notes])))
    if options.json is not None:
        write_json({"machine": machine, "rows": to_rows(cases)}, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
