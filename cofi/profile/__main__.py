"""`python -m cofi.profile MODEL`: measure what sublayers of every size cost on this machine, for --target-speedup."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cofi.cli import Parser, positive, run
from cofi.data import check_length, load_splits, load_tokenizer, tokenize
from cofi.data.kinds import ASKED_KINDS, AUTO
from cofi.data.tasks import TASKS
from cofi.errors import UserError
from cofi.machine import machine_info, pick_device, set_threads, versions
from cofi.measure.speedup import quantile_batch
from cofi.memory import keep_freed_memory
from cofi.models import CompactConfig, CompactModel, load_model
from cofi.models.config_values import INFERENCE_PRECISIONS
from cofi.models.locate import locate
from cofi.profile.measure import measure, n_points
from cofi.profile.parts import Deployment
from cofi.profile.profile import FOLDER, Profile
from cofi.profile.show import profile_table

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
DEFAULT_LENGTH = 128
PROBE_LENGTHS = 10_000  # rows of a task that are enough to know its lengths


def build_parser() -> Parser:
    parser = Parser("python -m cofi.profile", __doc__)
    parser.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help=f"dense encoder: hub id or DIR (default: {DEFAULT_MODEL})",
    )
    parser.add_argument("--output", metavar="FILE", help=f"by default {FOLDER}/<cpu or cuda>.json")
    parser.add_argument("--overwrite", action="store_true", help="replace --output")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="sequences (default: 32)")
    lengths = parser.add_mutually_exclusive_group()
    lengths.add_argument("--seq-len", type=positive, metavar="N", help=f"tokens of each (default: {DEFAULT_LENGTH})")
    lengths.add_argument("--task", help=f"lengths of its validation texts instead: {', '.join(TASKS)}, or in --data")
    parser.add_argument("--data", metavar="DIR", help="directory with <task>/validation.parquet; by default the hub")
    parser.add_argument("--max-length", type=positive, metavar="N", help="tokens a text of --task is cut to")
    parser.add_argument(
        "--task-kind",
        choices=(AUTO, *ASKED_KINDS),
        default=AUTO,
        help="what --task is trained as; of an embedding its texts are read one at a time, also where they are pairs",
    )
    parser.add_argument(
        "--precision", choices=INFERENCE_PRECISIONS, default="fp32", help="of the products with weights (default: fp32)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads; by default what PyTorch chooses")
    parser.add_argument(
        "--passes",
        type=positive,
        default=10,
        metavar="N",
        help="times all is measured (default: 10), a size that other work disturbed up to three times as often",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the structures that check the table")
    parser.add_device_flag()
    return parser


def output_path(options: argparse.Namespace, device: torch.device) -> Path:
    """Where the profile goes. Raises UserError, before the work, where it cannot."""
    path = Path(options.output) if options.output else FOLDER / f"{device.type}.json"
    if path.is_dir() or (path.exists() and not options.overwrite):
        raise UserError(f"--output {path} is there already: replace it with --overwrite or name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror or error}") from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"--output {path} cannot be written: {path.parent} is not a writable directory")
    return path


def load_config(options: argparse.Namespace) -> tuple[CompactConfig, list[int]]:
    """Configuration of the model, with the head of the task, and the lengths of its texts."""
    directory = locate(options.model)
    if options.task is None:
        head = load_model(directory).model.config.head
        loaded = load_model(directory, head="classification" if head == "none" else head)
        return _checked(loaded.model, options), [options.seq_len or DEFAULT_LENGTH] * options.batch_size
    rows_asked = {"task_kind": options.task_kind, "max_train_samples": 1, "max_eval_samples": PROBE_LENGTHS}
    splits = load_splits(options.task, data_dir=options.data, **rows_asked)
    model = load_model(directory, head=splits.task.head, num_labels=splits.task.num_labels).model
    check_length(model, options.max_length)
    rows = tokenize(splits.validation, splits.task, load_tokenizer(directory), options.max_length, None)
    return _checked(model, options), [int(length) for length in rows.lengths]


def _checked(model: CompactModel, options: argparse.Namespace) -> CompactConfig:
    config = cast(CompactConfig, model.config)
    longest = config.longest
    if not 0 <= options.seed < 2**31:
        raise UserError(f"--seed must be in [0, {2**31}), got {options.seed}")
    if options.seq_len is not None and options.seq_len > longest:
        raise UserError(f"--seq-len must be at most {longest}, the longest the model reads, got {options.seq_len}")
    try:
        config.shape()
    except ValueError as error:
        raise UserError(f"{options.model} is pruned already: profile the dense model ({error})") from error
    return config


def check_flags(options: argparse.Namespace) -> None:
    """Raise UserError for flags that mean nothing beside the others, before anything is made."""
    if options.task is None:
        for name in ("data", "max_length", "task_kind"):
            if getattr(options, name) not in (None, AUTO):
                raise UserError(f"--{name.replace('_', '-')} is about the texts of --task, which is not given")
    elif options.data is None and options.task in TASKS and TASKS[options.task].kind == AUTO:
        raise UserError(
            f"--task {options.task} has no texts of its own: name a folder of --data DIR, or give --seq-len"
        )


def make_profile(options: argparse.Namespace, device: torch.device, console: Console) -> Profile:
    config, lengths = load_config(options)
    shape = config.shape()
    batch = quantile_batch(lengths, options.batch_size, config.vocab_size, options.seed).to(device)
    deployment = Deployment(config, batch, device, options.precision)
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("", total=options.passes * n_points(deployment, shape))
        found = measure(
            deployment, shape, options.passes, options.seed, lambda total: progress.update(bar, advance=1, total=total)
        )
    if found.disturbed:
        console.print(
            f"[yellow]{found.disturbed} of {n_points(deployment, shape)} sizes were never timed with the machine left "
            "alone: measure again, or with more --passes, when nothing else uses these cores[/yellow]"
        )
    return Profile(
        source=options.model,
        shape=shape,
        lengths=batch.cu_seqlens.diff().tolist(),
        precision=options.precision,
        threads=torch.get_num_threads(),
        machine=machine_info(device),
        versions=versions(),
        tables=found.tables,
        checks=found.checks,
        spread=found.spread,
        gflops=found.gflops,
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse(argv)
    check_flags(options)
    set_threads(options.threads)
    device = pick_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()  # as training and cofi.bench do, which measure what this predicts
    if device.type != "cpu" and options.precision == "int8":
        raise UserError(f"--precision int8 is for a CPU, got --device {options.device}")
    path = output_path(options, device)
    console = Console(stderr=True)
    profile = make_profile(options, device, console)
    profile.save(path)
    Console().print(profile_table(profile))
    console.print(f"profile: {escape(str(path))}", highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
