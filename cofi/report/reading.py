"""The files of a run, read with care: a run may still be going on, may have been killed, may be somebody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cofi.errors import UserError
from cofi.files import check_size, read_json, read_text, read_yaml
from cofi.report.values import Sizes, finite, read_sizes

CONFIG, METRICS, RESULT = "config.yaml", "metrics.jsonl", "result.json"
# Real runs stay far below: a config is a few kB, a result a few tens of kB, a metrics line about 400 bytes.
MAX_BYTES = {CONFIG: 2**20, METRICS: 2**30, RESULT: 2**24}


@dataclass(frozen=True)
class Phase:
    """A stretch of the run: first step, and the step where the next phase begins (or the last step)."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run directory say; empty where a file is not there yet.

    model_config:       config.json of the compact model
    steps, evaluations: lines of metrics.jsonl by type, in the order of their `step`
    notes:              sentences about what could not be read
    """

    directory: Path
    config_text: str
    config: dict[str, Any]
    result: dict[str, Any]
    model_config: dict[str, Any]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def finished(self) -> bool:
        return bool(self.result)

    @property
    def warnings(self) -> list[str]:
        """What must be known before the numbers of the result."""
        if self.result.get("target_reached") is not False:
            return []
        aim = "sparsity" if finite(self.config.get("target_speedup")) is None else "speedup"
        return [f"The target {aim} was not reached: the result is where the run arrived."]

    @property
    def structure(self) -> Sizes | None:
        """Kept sizes: of the result, or of the last evaluation that has them. Raises UserError when malformed."""
        if self.result.get("structure") is not None:
            return read_sizes(self.result["structure"], RESULT)
        for record in reversed(self.evaluations):
            if record.get("structure") is not None:
                return read_sizes(record["structure"], METRICS)
        return None

    @property
    def dense_structure(self) -> Sizes | None:
        """Sizes before pruning: `dense_structure` of the result, else of the teacher saved beside, if it is as deep."""
        if self.result.get("dense_structure") is not None:
            return read_sizes(self.result["dense_structure"], RESULT)
        kept, teacher = self.structure, _teacher_sizes(self.directory / "teacher" / "config.json")
        return teacher if kept is not None and teacher is not None and len(teacher.heads) == len(kept.heads) else None

    @property
    def bias_only(self) -> tuple[frozenset[int], frozenset[int]]:
        """Layers of the compact model whose attention, whose FFN, has no unit but is there: a bias and a LayerNorm."""
        per_layer = self.model_config.get("per_layer_config")
        fields = per_layer.items() if isinstance(per_layer, dict) else ()
        layers = [(int(key), value) for key, value in fields if key.isdecimal() and isinstance(value, dict)]
        attention, ffn = (
            frozenset(layer for layer, value in layers if value.get(name, self.model_config.get(name)) is True)
            for name in ("attention_bias_only", "ffn_bias_only")
        )
        return attention, ffn

    @property
    def phases(self) -> list[Phase]:
        """The phases in the order they ran, from the lines of metrics.jsonl."""
        ordered = sorted(self.steps + self.evaluations, key=lambda record: record["step"])
        starts: dict[str, int] = {}
        for record in ordered:
            starts.setdefault(record["phase"], record["step"])
        ends = [*list(starts.values())[1:], ordered[-1]["step"] if ordered else 0]
        return [Phase(name, start, end) for (name, start), end in zip(starts.items(), ends, strict=True)]


def read_run(directory: Path | str) -> RunFiles:
    """Read the files of a run directory.

    A missing file, or a last line that is not complete, belongs to a run that is going on and is no error.
    Raises UserError where the directory holds no file of a run, or a file is too large or not what its name says.
    """
    directory = Path(directory)
    if not any((directory / name).is_file() for name in MAX_BYTES):
        raise UserError(f"{directory} is not a run directory: it has none of {', '.join(MAX_BYTES)}")
    config = directory / CONFIG
    steps, evaluations, notes = _read_metrics(directory / METRICS)
    return RunFiles(
        directory=directory,
        config_text=read_text(config, MAX_BYTES[CONFIG]) if _has_content(config) else "",
        config=read_yaml(config, MAX_BYTES[CONFIG]) if _has_content(config) else {},
        result=_read_object(directory / RESULT),
        model_config=_read_object(directory / "model" / "config.json"),
        steps=steps,
        evaluations=evaluations,
        notes=tuple(notes),
    )


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where the file is absent or empty."""
    return read_json(path, MAX_BYTES[RESULT]) if _has_content(path) else {}


def _teacher_sizes(path: Path) -> Sizes | None:
    """The uniform sizes of a saved dense model, None where the file is absent or has none."""
    config = _read_object(path)
    keys = ("num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_size")
    counts = [finite(config.get(key)) for key in keys]
    if any(count is None or not 0 < count < 2**20 for count in counts):
        return None
    layers, heads, intermediate, hidden = (int(count) for count in counts if count is not None)
    return Sizes((heads,) * layers, (intermediate,) * layers, hidden)


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    by_type: dict[str, list[dict[str, Any]]] = {"step": [], "evaluation": []}
    unreadable = 0
    for record in _records(path):
        if record is None:
            unreadable += 1
        elif record["type"] in by_type:
            _append(by_type[record["type"]], record)
    notes = [f"Lines of {METRICS} that could not be read and were skipped: {unreadable}."] if unreadable else []
    return by_type["step"], by_type["evaluation"], notes


def _records(path: Path) -> Iterator[dict[str, Any] | None]:
    """The lines of the file as objects, None for one that is not; an incomplete last line is left out."""
    if not path.is_file():
        return
    check_size(path, MAX_BYTES[METRICS])
    with path.open("rb") as file:
        for line in file:
            record = _parse_line(line)
            if record is None and not line.endswith(b"\n"):
                return  # the writer was still writing it
            if record is not None or line.strip():
                yield record


def _parse_line(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in ("type", "phase")):
        return None
    step = finite(record.get("step"))
    if step is None or step < 0:
        return None
    record["step"] = int(step)
    return record


def _append(records: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """Add a line; a run resumed from a checkpoint writes some steps again, and the later line holds."""
    while records and _superseded(records[-1], record):
        records.pop()
    records.append(record)


def _superseded(old: dict[str, Any], new: dict[str, Any]) -> bool:
    return old["step"] > new["step"] or (old["step"] == new["step"] and old["phase"] == new["phase"])
