"""What `python -m cofi.train` does: real pretrained weights, real labelled text, a tenth of the weights left.

The default recipe, with a teacher of its own rate and more fine-tuning: its training set has 2,700 rows.
"""

from __future__ import annotations

from typing import Any

from cofi.train.recipes import default


def settings(task: str) -> dict[str, Any]:
    return {
        **default.settings(task),
        "task": "pydocs",
        "sparsity": 0.9,
        "max_length": 96,
        "teacher_epochs": 3.0,
        "teacher_learning_rate": 1e-4,
        "prune_epochs": 3.0,
        "sparsity_warmup_epochs": 2.0,
        "finetune_epochs": 13.0,
        "measure_seconds": 10.0,
    }
