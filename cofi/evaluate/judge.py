"""How good a model is on the rows of an evaluation."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cofi.cli import Parser
from cofi.data import Evaluation, Task, TokenizedSplit, check_length, predict, score, tokenize
from cofi.data.predict import Predictions
from cofi.data.similarity import is_similarity, score_similarity, sides
from cofi.data.table import Table
from cofi.errors import UserError
from cofi.evaluate.rows import as_in_run, load_rows
from cofi.evaluate.trained import Trained, label_order, load_reference
from cofi.machine import pick_device
from cofi.models import CompactModel
from cofi_kernels.native import is_emulated

EMULATED = "This processor has no instructions for {}: scores are as they are elsewhere, the time is not."


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
        split = replace(split, labels=predict(reference, split, batch_size=options.batch_size).sentence_embedding)
    return score(task, split, found.in_order(label_order(trained, task)))


def evaluate(options: argparse.Namespace, usual: Parser, console: Console) -> dict[str, Any]:
    """What the command reports, as JSON holds it. usual: knows what an option is by default. Raises UserError."""
    device = pick_device(options.device)
    trained = Trained.load(options.model)
    options = as_in_run(options, usual, console)
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
