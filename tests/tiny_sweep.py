"""Sweeps over one or two tasks of a tiny checkpoint, and what they leave."""

from __future__ import annotations

from pathlib import Path

from cofi.sweep.results import read_summary


def tiny_sweep(checkpoint: Path, two_tasks: Path, output: Path) -> list[str]:
    flags = {
        "output": output,
        "data": two_tasks,
        "model": checkpoint,
        "tasks": "animals,beasts",
        "sparsities": "0.3",
        "batch-size": 16,
        "teacher-epochs": 1,
        "prune-epochs": 2,
        "sparsity-warmup-epochs": 1,
        "finetune-epochs": 1,
        "reg-learning-rate": 0.2,
        "device": "cpu",
    }
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def points(folder: Path) -> dict[str, dict]:
    return {point["name"]: point for point in read_summary(folder)["points"]}
