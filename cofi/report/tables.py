"""The result of a run as one table for the terminal, and as rows for the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich import box
from rich.markup import escape
from rich.table import Table

from cofi.report.values import (
    MISSING,
    number,
    numbers,
    show_change,
    show_count,
    show_ms,
    show_percent,
    show_ratio,
    show_score,
)

MODELS_NOTE = "Masked: the full-size model under its masks. Compact: sliced to what they keep, then fine-tuned."
PARAMETERS_NOTE = "Parameters: the encoder's, without embeddings and heads."


class Row(NamedTuple):
    """One model of the table; latency and speedup have an entry for each name measured."""

    name: str
    score: str
    change: str
    parameters: str
    sparsity: str
    latency: tuple[str, ...]
    speedup: tuple[str, ...]


def measured_names(result: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of what was measured ("batch 1", ...), in the order of the result."""
    latencies = _mapping(result.get("latency_ms"))
    groups = [numbers(latencies, model) for model in ("teacher", "compact")]
    return tuple(dict.fromkeys(name for group in [*groups, numbers(result, "speedup")] for name in group))


def summary_rows(result: Mapping[str, Any]) -> list[Row]:
    """Teacher, masked and compact model; '-' for what the result does not have."""
    names = measured_names(result)
    latencies = _mapping(result.get("latency_ms"))
    before, after = number(result, "params_before"), number(result, "params_after")
    sparsity = number(result, "sparsity")
    speedup = numbers(result, "speedup")
    parts: dict[str, tuple[float | None, float | None, dict[str, float]]] = {
        "teacher": (before, None if before is None else 0.0, dict.fromkeys(speedup, 1.0)),
        "masked": (before, sparsity, {}),
        "compact": (after, sparsity, speedup),
    }
    rows = []
    for model, (parameters, sparse, ratios) in parts.items():
        times = numbers(latencies, model)
        rows.append(
            Row(
                model,
                show_score(number(result, f"{model}_score")),
                MISSING if model == "teacher" else show_change(score_change(result, model)),
                show_count(parameters),
                show_percent(sparse),
                tuple(show_ms(times.get(name)) for name in names),
                tuple(show_ratio(ratios.get(name)) for name in names),
            )
        )
    return rows


def score_change(result: Mapping[str, Any], model: str) -> float | None:
    """Score of a model minus the teacher's, None where one of them is absent."""
    teacher, score = number(result, "teacher_score"), number(result, f"{model}_score")
    return None if teacher is None or score is None else score - teacher


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """What must be known to read the numbers."""
    return [note for note in (PARAMETERS_NOTE, speedup_note(result), measurement_note(result)) if note]


def speedup_note(result: Mapping[str, Any]) -> str:
    """The speedup a run was asked for beside the one it has, from `target_speedup`; empty where it was not."""
    target = _mapping(result.get("target_speedup"))
    names = ("requested", "predicted", "measured")
    facts = [f"{name} {show_ratio(value)}" for name in names if (value := number(target, name)) is not None]
    if not facts:
        return ""
    uncertainty = number(target, "measured_uncertainty")
    if uncertainty is not None:
        facts[-1] += f" +-{100 * uncertainty:.1f} %"
    if target.get("disturbed") is True:
        facts[-1] += " beside other work, so not comparable"
    batch = _mapping(target.get("batch"))
    sequences, longest = number(batch, "sequences"), number(batch, "longest")
    if sequences is not None and longest is not None:
        facts[-1] += f" ({sequences:.0f} sequences of up to {longest:.0f} tokens, {target.get('precision')})"
    facts[-1] += _calibration(_mapping(target.get("calibration")))
    elsewhere = target.get("same_machine") is False
    return f"Speedup: {', '.join(facts)}{', on another machine than the profile' if elsewhere else ''}."


def _calibration(found: Mapping[str, Any]) -> str:
    """What the structure of the profile alone was measured at, where it was corrected."""
    rounds, chosen = found.get("rounds"), number(found, "chosen")
    if not chosen or not isinstance(rounds, list) or not rounds:
        return ""
    before = number(_mapping(rounds[0]), "measured")
    return "" if before is None else f", corrected from {show_ratio(before)} by the profile alone"


def measurement_note(result: Mapping[str, Any]) -> str:
    """What latency and speedup were measured on, from `measured` and `machine`; empty where nothing was measured."""
    if not measured_names(result):
        return ""
    measured, machine = (_mapping(result.get(key)) for key in ("measured", "machine"))
    lengths, rounds = numbers(measured, "lengths"), numbers(measured, "rounds").values()
    facts = ["medians"]
    if rounds:
        low, high = int(min(rounds)), int(max(rounds))
        facts[0] = f"medians of {low if low == high else f'{low} to {high}'} interleaved rounds"
    if "median" in lengths and "longest" in lengths:
        median, longest = (f"{lengths[key]:.0f}" for key in ("median", "longest"))
        facts.append(f"real lengths (median {median}, longest {longest} tokens), no padding")
    threads = number(machine, "threads")
    if machine.get("device") == "cpu" and threads is not None:
        facts.append(f"{threads:.0f} thread{'' if threads == 1 else 's'} of {machine.get('cpu') or 'the CPU'}")
    elif machine.get("device"):
        facts.append(f"on {machine['device']}")
    rates = numbers(measured, "gflops").values()
    if rates:
        between = dict.fromkeys(f"{rate:.3g}" for rate in (min(rates), max(rates)))
        facts.append(f"which made {' to '.join(between)} GFLOP/s in a plain product")
    return f"Latency: {', '.join(facts)}."


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def summary_table(result: Mapping[str, Any]) -> Table:
    """One table of a result.json: teacher, masked and compact model. Scores are on a 0 to 100 scale."""
    names = measured_names(result)
    title = " ".join(str(result[key]) for key in ("task", "metric") if result.get(key) is not None)
    caption = "\n".join(footnotes(result))
    table = Table(title=escape(title) or None, caption=escape(caption), caption_justify="left", box=box.SIMPLE_HEAD)
    table.collapse_padding, table.pad_edge = True, False  # so that two measurements fit 80 columns
    table.add_column("model")
    for header in ("score", "parameters", "sparsity"):
        table.add_column(header, justify="right")
    for name in names:
        table.add_column(f"{escape(name)}\nms", justify="right")
        table.add_column(f"{escape(name)}\nspeedup", justify="right")
    for row in summary_rows(result):
        pairs = [cell for pair in zip(row.latency, row.speedup, strict=True) for cell in pair]
        style = "bold" if row.name == "compact" else ""
        table.add_row(row.name, row.score, row.parameters, row.sparsity, *pairs, style=style)
    return table
