"""What `python -m cofi.train` does: real pretrained weights, real labelled text, an eighth of the weights left."""

from __future__ import annotations

from typing import Any

from cofi.train.recipes import gradual


def settings(task: str) -> dict[str, Any]:
    return {
        **gradual.settings(task),
        "task": "pydocs",
        "sparsity": 0.85,
        "max_length": 96,
        "teacher_epochs": 3.0,
        "teacher_learning_rate": 1e-4,
        "prune_epochs": 6.0,
        "sparsity_warmup_epochs": 2.5,
        "finetune_epochs": 10.0,
        "learning_rate": 2e-4,
        "finetune_learning_rate": 2e-4,
        "reg_learning_rate": 0.1,
        "measure_seconds": 10.0,
    }
