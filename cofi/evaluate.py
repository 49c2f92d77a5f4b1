"""`python -m cofi.evaluate DIR --task T`: the metrics of a saved model, as a table, with --json as JSON."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from cofi.cli import Parser, positive, write_json
from cofi.cli import run as run_command
from cofi.data import (
    Evaluation,
    Task,
    TokenizedSplit,
    check_length,
    load_splits,
    load_tokenizer,
    load_validation,
    predict,
    score,
    tokenize,
)
from cofi.data.load import Splits, ValidationSets
from cofi.data.predict import Predictions, with_references
from cofi.data.similarity import is_similarity, score_similarity, sides
from cofi.data.table import Table
from cofi.data.task import AUTO
from cofi.data.tasks import TASKS
from cofi.errors import UserError, first_few
from cofi.machine import pick_device
from cofi.memory import keep_freed_memory
from cofi.models import CompactModel
from cofi.models.class_names import class_names, output_order
from cofi.models.config_values import INFERENCE_PRECISIONS
from cofi.models.load import load_model
from cofi.models.locate import locate
from cofi.models.sentence_files import MODULES_FILE
from cofi.train.ranges import flag
from cofi.train.rundir import RunDirectory
from cofi_kernels.native import is_emulated

_COLUMNS = ("text_column", "pair_column", "label_column", "task_kind")
DATA_FLAGS = ("train_file", "validation_file", "validation_fraction", "max_eval_samples", *_COLUMNS)
# what a run trained with, where no flag says otherwise; rows only where no flag names any
_TEXT_OF_RUN = ("max_length", "doc_stride", *_COLUMNS)
_ROWS_OF_RUN = ("data", "train_file", "validation_file", "validation_fraction")
EMULATED = "This processor has no instructions for {}: scores are as they are elsewhere, the time is not."


def build_parser() -> Parser:
    parser = Parser(
        "python -m cofi.evaluate",
        __doc__,
        epilog="A run's model is evaluated as the run did it: rows, columns and lengths are those of its config.yaml "
        "where no flag names others and --task is that of the run. A model of sentence embeddings is compared with "
        "--reference, or on a regression task of pairs, as stsb, by the cosines of the two with the labels.",
    )
    parser.add_argument("model", metavar="DIR", help="directory of a model or of a run, or a hub id")
    parser.add_argument("--task", help=f"{', '.join(TASKS)}, or a folder in the --data directory; by default the run's")
    parser.add_argument("--data", metavar="DIR", help="directory with <task>/validation.parquet; by default the hub")
    parser.add_argument("--train-file", metavar="FILE", help="training file, if the class names must come from it")
    parser.add_argument("--validation-file", metavar="FILE", help="Parquet, CSV or JSONL file to evaluate on")
    parser.add_argument("--validation-fraction", type=float, help="evaluate on the rows that training held out")
    parser.add_argument("--max-eval-samples", type=positive, metavar="N", help="evaluate on the first N rows only")
    parser.add_argument("--text-column", help="column of the text")
    parser.add_argument("--pair-column", help="column of the second text, for pairs")
    parser.add_argument("--label-column", help="column of the label")
    parser.add_argument("--task-kind", default=AUTO, help="auto, classification, regression or embedding")
    parser.add_argument(
        "--reference",
        metavar="DIR",
        help="model whose sentence embeddings are to be repeated; by default the run's teacher",
    )
    parser.add_argument(
        "--max-length", type=positive, help="tokens a text is cut to; by default the run's or the task's"
    )
    parser.add_argument("--doc-stride", type=int, help="overlap in tokens of the windows of a long passage")
    parser.add_argument("--batch-size", type=positive, default=64, help="sequences a batch (default: 64)")
    parser.add_argument(
        "--precision",
        choices=INFERENCE_PRECISIONS,
        help="of products on a CPU; by default what the model's config says",
    )
    parser.add_device_flag()
    parser.add_json_flag()
    return parser


@dataclass(frozen=True)
class Trained:
    """A model with a trained head, and its tokenizer."""

    source: str
    model: CompactModel
    tokenizer: Any

    @classmethod
    def load(cls, source: str) -> Trained:
        loaded = load_model(locate(source))
        if not loaded.head_trained and (loaded.tokenizer_path / MODULES_FILE).is_file():
            loaded = load_model(loaded.tokenizer_path, head="embedding")  # as Sentence Transformers would
        if not loaded.head_trained:
            raise UserError(f"{source} has no trained head for a task: there is nothing to evaluate")
        return cls(source, loaded.model, load_tokenizer(loaded.tokenizer_path))

    @property
    def kind(self) -> str:
        """The kind of task its head is for."""
        config = self.model.config
        return "regression" if config.head == "classification" and config.is_regression else config.head

    @property
    def label_names(self) -> tuple[str, ...]:
        return class_names(self.model.config.id2label)


def as_in_run(options: argparse.Namespace, console: Console) -> argparse.Namespace:
    """The options, and for what none of them says the settings of the run that the model comes from, which are shown.

    Raises UserError where there is no task.
    """
    folder = Path(options.model)
    runs = [RunDirectory(root) for root in (folder, folder.parent) if (root / "config.yaml").is_file()]
    if not runs:
        if options.task is None:
            raise UserError(f"--task must be given for a model that is not in the directory of a run, as {folder}")
        return options
    config = runs[0].read_config()
    if options.task not in (None, config.task):
        return options
    named = any(getattr(options, name) is not None for name in _ROWS_OF_RUN)
    usual = build_parser()
    taken = {
        name: getattr(config, name)
        for name in ("task", *_TEXT_OF_RUN, *(() if named else (*_ROWS_OF_RUN, "max_eval_samples")))
        if getattr(options, name) == usual.get_default(name) and getattr(config, name) != usual.get_default(name)
    }
    if taken:
        flags = " ".join(f"{flag(name)} {value}" for name, value in taken.items())
        console.print(f"as in {runs[0].root}: {flags}", markup=False, highlight=False, soft_wrap=True)
    return argparse.Namespace(**{**vars(options), **taken})


def load_rows(options: argparse.Namespace, trained: Trained) -> Splits | ValidationSets:
    """The validation sets the options name, read for the classes of the model."""
    request = {name: getattr(options, name) for name in DATA_FLAGS}
    if options.train_file is not None or options.validation_fraction is not None:
        rows: Splits | ValidationSets = load_splits(options.task, data_dir=options.data, **request)
    else:
        own_task = options.task not in TASKS or TASKS[options.task].kind == AUTO
        if own_task and trained.kind in ("regression", "embedding") and options.task_kind == AUTO:
            request["task_kind"] = trained.kind  # whole numbers would pass for classes
        names = trained.label_names if trained.kind == "classification" else None
        rows = load_validation(options.task, label_names=names, data_dir=options.data, **request)
    if rows.task.kind != trained.kind and not (trained.kind == "embedding" and is_similarity(rows.task)):
        cure = "; --task-kind embedding takes its texts alone" if trained.kind == "embedding" else ""
        raise UserError(
            f"task {rows.task.name} is {rows.task.kind}, the head of {trained.source} is for {trained.kind}{cure}"
        )
    return rows


def load_reference(options: argparse.Namespace, trained: Trained, task: Task) -> CompactModel | None:
    """The model that embeddings are compared with, where they are. Raises UserError."""
    if task.kind != "embedding":
        if options.reference is not None:
            raise UserError(f"--reference is for --task-kind embedding, task {task.name} is {task.kind}")
        return None
    folder = Path(options.model)
    kept = [root / "teacher" for root in (folder, folder.parent) if (root / "teacher" / "config.json").is_file()]
    source = options.reference or (kept[0] if kept else None)
    if source is None:
        raise UserError("--reference must name the model whose embeddings are to be repeated, no run has one")
    loaded = load_model(locate(source), head="embedding")
    model = loaded.model
    if load_tokenizer(loaded.tokenizer_path).get_vocab() != trained.tokenizer.get_vocab():
        raise UserError(f"--reference {source} must have the vocabulary of {trained.source}, whose token ids it reads")
    if model.config.hidden_size != trained.model.config.hidden_size:
        raise UserError(
            f"--reference {source} must make embeddings of as many dims as {trained.source}, "
            f"{trained.model.config.hidden_size}, got {model.config.hidden_size}"
        )
    return model


def label_order(trained: Trained, task: Task) -> list[int] | None:
    """For each class of the task the model's output; None where the task has no classes.

    Raises UserError where the model's classes are others.
    """
    if task.kind != "classification":
        return None
    want = task.label_names or ()
    order = output_order(trained.label_names, want)
    if order is None:
        raise UserError(
            f"the classes of {trained.source} must be those of task {task.name} ({first_few(want)}), "
            f"got {first_few(trained.label_names)}"
        )
    return order


def predict_split(trained: Trained, split: TokenizedSplit, batch_size: int, console: Console) -> Predictions:
    """What the model says of one validation set, with a progress bar on a terminal."""
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar_id = bar.add_task("", total=len(split))
        found = predict(
            trained.model, split, batch_size=batch_size, progress=lambda done: bar.update(bar_id, completed=done)
        )
    if not found.finite:
        raise UserError(f"{trained.source} predicts numbers that are infinite or NaN: its weights are damaged")
    return found


def evaluate_rows(
    trained: Trained,
    table: Table,
    task: Task,
    reference: CompactModel | None,
    options: argparse.Namespace,
    console: Console,
) -> Evaluation:
    """How good the model is on one validation set."""

    def predicted(task: Task) -> tuple[TokenizedSplit, Predictions]:
        split = tokenize(table, task, trained.tokenizer, options.max_length, options.doc_stride)
        cut = split.describe_cut()
        if cut is not None:
            console.print(cut, highlight=False)
        return split, predict_split(trained, split, options.batch_size, console)

    if trained.kind == "embedding" and is_similarity(task):
        first, second = (predicted(side)[1] for side in sides(task))
        return score_similarity(task, first, second, table)
    split, found = predicted(task)
    if reference is not None:
        split = with_references(split, task, reference, options.batch_size)
    order = label_order(trained, task)
    if order is not None and found.logits is not None:
        found = replace(found, logits=found.logits[:, order])
    return score(task, split, found)


def evaluate(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """What the command reports, as JSON holds it. Raises UserError."""
    device = pick_device(options.device)
    trained = Trained.load(options.model)
    options = as_in_run(options, console)
    rows = load_rows(options, trained)
    label_order(trained, rows.task)  # before the work, not after
    check_length(trained.model, options.max_length)
    if options.precision is not None:
        trained.model.set_inference_precision(options.precision)
    precision = trained.model.config.inference_precision
    if precision != "fp32" and device.type != "cpu":
        raise UserError(f"--precision {precision} runs on a CPU, the device is {device}")
    if is_emulated(precision):
        console.print(f"[yellow]{EMULATED.format(precision)}[/yellow]")
    reference = load_reference(options, trained, rows.task)
    for model in (trained.model, *(() if reference is None else (reference,))):
        model.to(device)  # type: ignore[arg-type]  # transformers wraps it with a hint of its own
    started = time.perf_counter()
    metrics: dict[str, float] = {}
    main: Evaluation | None = None
    for suffix, table in {"": rows.validation, **rows.extra}.items():
        found = evaluate_rows(trained, table, rows.task, reference, options, console)
        metrics.update({f"{name}_{suffix}" if suffix else name: value for name, value in found.metrics.items()})
        main = main or found
    assert main is not None
    return {
        "model": options.model,
        "task": rows.task.name,
        "data": rows.validation.source,
        "examples": len(rows.validation),
        "metrics": metrics,
        "main_metric": main.main_metric or rows.task.main_metric,
        "score": main.score,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "device": str(device),
        "precision": precision,
        "seconds": round(time.perf_counter() - started, 3),
    }


def result_table(result: dict[str, Any]) -> RichTable:
    table = RichTable(title=escape(f"{result['model']} on {result['task']}"), title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result["metrics"].items():
        style = "bold" if name == result["main_metric"] else ""
        table.add_row(name, f"{value:.4f}", style=style)
    table.add_section()
    table.add_row("score", f"{result['score']:.2f}", style="bold")
    table.add_row("examples", f"{result['examples']:,}")
    table.add_row("parameters", f"{result['parameters']:,}")
    table.add_row("seconds", f"{result['seconds']:.1f} ({result['device']}, {result['precision']})")
    return table


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse(argv)
    keep_freed_memory()
    # with JSON on standard output the table goes where it does not mix with it
    console = Console(stderr=options.json == "-")
    result = evaluate(options, console)
    console.print(result_table(result))
    if options.json is not None:
        write_json(result, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
