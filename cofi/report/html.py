"""The page of a run: one HTML file with everything in it, nothing fetched, nothing executed."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cofi.errors import UserError
from cofi.files import write_atomically
from cofi.report.card import write_card
from cofi.report.figures import Drawn, draw_figures
from cofi.report.loading import loading_lines
from cofi.report.reading import RunFiles, read_run
from cofi.report.tables import MODELS_NOTE, footnotes, measured_names, score_change, summary_rows
from cofi.report.values import (
    number,
    numbers,
    show_change,
    show_count,
    show_percent,
    show_ratio,
    show_score,
    show_seconds,
)

REPORT, FIGURES = "report.html", "figures"
# Settings of where and how a run is kept, which a reader who repeats it chooses anew.
NOT_REPRODUCED = {"resume", "overwrite", "tensorboard", "output"}


def write_report(run_dir: Path | str) -> Path:
    """Write report.html, figures/*.png and the model's card from config.yaml, metrics.jsonl and result.json of a run.

    Works for a run that is still going on: what its files do not say yet is left out. Returns the path of the page.
    Raises UserError where the files cannot be read or written.
    """
    run = read_run(run_dir)
    figures = draw_figures(run)
    page = render_page(run, figures)
    path = run.directory / REPORT
    try:
        if figures:
            (run.directory / FIGURES).mkdir(exist_ok=True)
        for figure in figures:
            write_atomically(run.directory / FIGURES / f"{figure.name}.png", figure.png)
        write_atomically(path, page.encode())
        write_card(run)
    except OSError as error:
        raise UserError(f"the report cannot be written to {run.directory}: {error.strerror or error}") from error
    return path


def render_page(run: RunFiles, figures: Sequence[Drawn]) -> str:
    """The page as text; every value of the run's files is escaped."""
    loader = jinja2.PackageLoader("cofi.report", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = loader.get_source(environment, "report.css")[0]
    return environment.get_template("report.html.j2").render(
        style=Markup(style),
        title=_title(run),
        run=run,
        facts=_facts(run),
        states=_states(run),
        names=measured_names(run.result),
        rows=summary_rows(run.result) if run.finished else [],
        table_notes=[note for note in (MODELS_NOTE, _sparsity_note(run.result), *footnotes(run.result)) if note],
        headline=headline(run.result),
        figures=[_embedded(figure) for figure in figures],
        seconds=_phase_bars(run.result),
        command=_command(run),
        loading=_loading(run),
        environment=_environment(run.result),
    )


def _title(run: RunFiles) -> str:
    task = run.result.get("task") or run.config.get("task") or run.directory.resolve().name
    return str(task)


def _facts(run: RunFiles) -> list[str]:
    """The line under the title."""
    facts = [str(run.config[key]) for key in ("model",) if run.config.get(key) is not None]
    speedup, sparsity = number(run.config, "target_speedup"), number(run.result, "target_sparsity")
    sparsity = number(run.config, "sparsity") if sparsity is None else sparsity
    if speedup is not None:
        facts.append(f"target speedup {show_ratio(speedup)}")
    elif sparsity is not None:
        facts.append(f"target sparsity {show_percent(sparsity)}")
    for name in ("recipe", "seed"):
        value = run.result.get(name, run.config.get(name))
        if value is not None:
            facts.append(f"{name} {value}")
    return facts


def _states(run: RunFiles) -> list[str]:
    """What a reader must know before the numbers."""
    unfinished = "This run has not finished: there is no result yet. The page shows what it has logged so far."
    return [*run.warnings, *([] if run.finished else [unfinished]), *run.notes]


def headline(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(large figure, what it is, from what to what) for size, speed and score; only what the result has."""
    items = []
    before, after = number(result, "params_before"), number(result, "params_after")
    if before and after:
        sizes = f"{show_count(before)} to {show_count(after)} parameters"
        items.append((show_ratio(before / after), "smaller encoder", sizes))
    speedup = numbers(result, "speedup")
    if speedup:
        name, best = max(speedup.items(), key=lambda item: item[1])
        others = ", ".join(f"{show_ratio(ratio)} at {other}" for other, ratio in speedup.items() if other != name)
        items.append((show_ratio(best), f"{'faster' if best >= 1 else 'the speed'} at {name}", others))
    change = score_change(result, "compact")
    if change is not None:
        metric = str(result.get("metric") or "score")
        scores = " to ".join(show_score(number(result, f"{model}_score")) for model in ("teacher", "compact"))
        items.append((show_change(change), f"points of {metric}", scores))
    return items


def _embedded(figure: Drawn) -> dict[str, str]:
    return {
        "heading": figure.words.heading,
        "caption": figure.words.caption,
        "alt": figure.words.alt,
        "light": "data:image/svg+xml;base64," + base64.b64encode(figure.light_svg).decode(),
        "dark": "data:image/svg+xml;base64," + base64.b64encode(figure.dark_svg).decode(),
    }


def _phase_bars(result: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """(phase, time in words, share of the longest in percent)."""
    seconds = {name: max(value, 0.0) for name, value in numbers(result, "seconds").items()}
    longest = max(seconds.values(), default=0.0) or 1.0
    return [(name, show_seconds(value), round(100 * value / longest, 2)) for name, value in seconds.items()]


def _sparsity_note(result: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {show_percent(number(result, key))}"
        for key, name in (("target_sparsity", "target"), ("expected_sparsity", "expected"), ("sparsity", "reached"))
        if number(result, key) is not None
    ]
    return f"Sparsity: {', '.join(parts)}." if parts else ""


def _command(run: RunFiles) -> str:
    """The command that repeats the run: its own if it was kept, otherwise every setting of config.yaml as a flag.

    A run that was asked for a speedup has a sparsity among its settings too: a command may give only one of the two.
    """
    if isinstance(run.result.get("command"), str):
        return run.result["command"]
    left_out = NOT_REPRODUCED | (set() if run.config.get("target_speedup") is None else {"sparsity"})
    words = [
        _flag(str(name), str(value))
        for name, value in run.config.items()
        if name not in left_out and isinstance(value, (str, int, float)) and value != ""
    ]
    return " ".join(["python -m cofi.train", *words]) if words else ""


def _flag(name: str, value: str) -> str:
    """A flag and its value for a shell. What begins with a dash would be taken for a flag of its own."""
    return f"--{name.replace('_', '-')}{'=' if value.startswith('-') else ' '}{shlex.quote(value)}"


def _loading(run: RunFiles) -> str:
    return loading_lines(run.model_config, str(Path(str(run.config.get("output") or run.directory)) / "model"))


def _environment(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key in ("versions", "machine"):
        value = result.get(key)
        items = value.items() if isinstance(value, Mapping) else [(key, value)]
        rows += [(str(name), str(item)) for name, item in items if item is not None]
    if result.get("seed") is not None:
        rows.append(("seed", str(result["seed"])))
    return list(dict(rows).items())
