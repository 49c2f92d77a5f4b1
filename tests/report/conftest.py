"""A made-up run: its three files, complete unless a test takes something away."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

STEPS = {"teacher": 20, "distil": 15, "prune": 60, "finetune": 25}


def step_record(phase: str, step: int, phase_step: int, share: float) -> dict[str, Any]:
    record: dict[str, Any] = {
        "type": "step",
        "phase": phase,
        "step": step,
        "phase_step": phase_step,
        "seconds": step / 9,
    }
    record["loss"] = 0.2 + math.exp(-3 * share)
    if phase != "teacher":
        record |= {"prediction_loss": 0.1 + share / 9, "layer_loss": 9 * math.exp(-2 * share)}
    if phase == "prune":
        record |= {"expected_sparsity": 0.9 * share, "target_sparsity": 0.95 * share, "lagrangian_loss": -0.1 * share}
        record |= {"lambda_1": -share, "lambda_2": 2 * share}
    return record


def log_lines(structure: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps of all phases with an evaluation at each phase's end."""
    lines: list[dict[str, Any]] = []
    step = 0
    for phase, count in STEPS.items():
        for phase_step in range(count):
            lines.append(step_record(phase, step, phase_step, phase_step / count))
            step += 1
        pruned = phase in ("prune", "finetune")
        lines.append(
            {"type": "evaluation", "phase": phase, "step": step, "phase_step": count, "score": 80.0, "selected": True}
            | ({"sparsity": 0.94, "structure": structure} if pruned else {})
        )
    return lines


@pytest.fixture
def result() -> dict[str, Any]:
    """A result.json as cofi.train writes it."""
    return {
        "task": "sst2",
        "metric": "accuracy",
        "teacher_score": 92.43,
        "masked_score": 90.1,
        "compact_score": 89.91,
        "target_sparsity": 0.95,
        "expected_sparsity": 0.951,
        "sparsity": 0.948,
        "params_before": 85_054_464,
        "params_after": 4_421_106,
        "structure": {"heads": [2, 0, 1], "intermediate": [300, 12, 0], "hidden": 764},
        "dense_structure": {"heads": [12] * 3, "intermediate": [3072] * 3, "hidden": 768},
        "speedup": {"batch 1": 3.9, "batch 32": 12.31},
        "latency_ms": {"teacher": {"batch 1": 12.0, "batch 32": 612.0}, "compact": {"batch 1": 3.08, "batch 32": 49.7}},
        "seconds": {"teacher": 12.5, "prune": 812.4},
        "measured": {"lengths": {"median": 25, "longest": 66}, "rounds": {"batch 1": 40, "batch 32": 9}},
        "machine": {"device": "cpu", "cpu": "A CPU", "threads": 2},
        "seed": 57,
        "versions": {"torch": "2.13.0"},
    }


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run(result, **config)` writes a run directory and returns its path; result None leaves it unfinished."""

    def make(result: dict[str, Any] | None, **config: Any) -> Path:
        directory = tmp_path / "run"
        directory.mkdir()
        settings = {"recipe": "demo", "task": "sst2", "model": "some/checkpoint", "sparsity": 0.95, **config}
        (directory / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
        structure = {"heads": [2, 0, 1], "intermediate": [300, 12, 0], "hidden": 764}
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_lines(structure)))
        if result is not None:
            (directory / "result.json").write_text(json.dumps(result))
        return directory

    return make
