"""The model card beside the weights: what the model is, what it costs and how it is used, as the hub shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from cofi.errors import UserError
from cofi.files import read_text, write_atomically
from cofi.report.loading import loading_lines, use_of
from cofi.report.reading import RunFiles
from cofi.report.tables import MODELS_NOTE, footnotes, measured_names, summary_rows
from cofi.report.values import number, show_percent

CARD = "README.md"
MARK = "<!-- Written by cofi-kernels, which may write it anew: delete this line to keep a text of your own. -->"
MAX_BYTES = 2**20  # of a card that is there already
MAX_TEXT = 1000  # characters of a value from a file
SETTINGS = (  # what says how a model was made; no paths: a card is for strangers
    "method",
    "recipe",
    "seed",
    "teacher_epochs",
    "distil_epochs",
    "prune_epochs",
    "finetune_epochs",
    "batch_size",
    "learning_rate",
    "finetune_learning_rate",
    "max_length",
    "augment",
)


def write_card(run: RunFiles) -> Path | None:
    """Write model/README.md of a finished run; None where there is no small model, or a card somebody else has written.

    Raises OSError.
    """
    folder = run.directory / "model"
    path = folder / CARD
    if not run.finished or not run.model_config or not _may_replace(path):
        return None
    write_atomically(path, render_card(run).encode())
    return path


def _may_replace(path: Path) -> bool:
    """Whether nothing is there, or a card of ours."""
    try:
        return not path.exists() or MARK in read_text(path, MAX_BYTES)
    except UserError:  # no text, or longer than any of ours
        return False


def render_card(run: RunFiles) -> str:
    """The card as text: the hub's metadata in YAML, then Markdown, in which values of the run's files are escaped."""
    loader = jinja2.PackageLoader("cofi.report", ".")
    environment = jinja2.Environment(
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_escaped
    )
    kept, dense = run.structure, run.dense_structure
    uniform = dense is not None and len({*dense.heads}) == len({*dense.intermediate}) == 1
    text = environment.get_template("card.md.j2").render(
        title=_title(run),
        base=_base(run),
        task=str(run.result.get("task") or "a task"),
        method=str(run.config.get("method") or "unknown"),
        metric=str(run.result.get("metric") or "score"),
        states=run.warnings,
        names=measured_names(run.result),
        rows=summary_rows(run.result),
        notes=[MODELS_NOTE, *footnotes(run.result)],
        loading=_Plain(loading_lines(run.model_config, "path/to/this/model")),
        is_embedding=run.model_config.get("head") == "embedding",
        hidden=None if kept is None else kept.hidden,
        layers=[] if kept is None or not uniform else list(zip(kept.heads, kept.intermediate, strict=True)),
        dense_heads=dense.heads[0] if dense is not None and uniform else None,
        dense_intermediate=dense.intermediate[0] if dense is not None and uniform else None,
        settings=[(name, run.config[name]) for name in SETTINGS if run.config.get(name) not in (None, 0, "")],
        mark=_Plain(MARK),
    )
    return f"---\n{_metadata(run)}\n---\n\n{text}"


class _Plain(str):
    """Text that is Markdown already."""


def _escaped(value: Any) -> str:
    """A value as Markdown that shows it, on one line: files of a run may hold anything."""
    if isinstance(value, _Plain):
        return value
    text = " ".join(str(value).split())[:MAX_TEXT]
    return re.sub(r"([\\`*_\[\]<>|#~!&])", r"\\\1", text)


def _base(run: RunFiles) -> str:
    """What was pruned, without the folders it lay in."""
    name = run.result.get("base_model") or Path(str(run.config.get("model") or "")).name
    return str(name or "An encoder")


def _title(run: RunFiles) -> str:
    name, sparsity = _base(run).rsplit("/", 1)[-1], number(run.result, "sparsity")
    return name if sparsity is None else f"{name} without {show_percent(sparsity)} of its encoder"


def _metadata(run: RunFiles) -> str:
    """YAML as the hub reads it. Names of a model and a data set are there if they came from the hub."""
    from huggingface_hub import EvalResult, ModelCardData  # half a second, for a page that may not be asked for

    result, tag = run.result, use_of(run.model_config).pipeline_tag
    score, task, metric = number(result, "compact_score"), str(result.get("task")), str(result.get("metric"))
    scores = []
    if score is not None:
        scores = [
            EvalResult(
                task_type=tag,
                dataset_type=str(result.get("dataset") or task),
                dataset_name=task,
                metric_type=metric,
                metric_name=f"{metric}, of 100",
                metric_value=round(score, 2),
            )
        ]
    data = ModelCardData(
        base_model=result.get("base_model"),
        datasets=result.get("dataset"),
        library_name="cofi-kernels",
        pipeline_tag=tag,
        tags=["cofi", "structured-pruning", "distillation"],
        model_name=_title(run),
        eval_results=scores or None,
    )
    return str(data.to_yaml())
