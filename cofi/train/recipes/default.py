"""Settings for a task of one's own or of GLUE on modest hardware: far fewer epochs than the paper.

The student starts from the teacher unless a --teacher is given beside --model. Gates start from a structure on target
that Fisher scores choose, so pruning only has to mend it and most of the epochs are left for the model that was cut.
The recipe gradual, whose gates learn all of it in as many epochs, is behind by some points (docs/experiments.md).
"""

from __future__ import annotations

from typing import Any

from cofi.train.recipes import gradual

# the gates' rate is the paper's: they have no far way to go (CoLA at 95 %: 24.6, and 23.5 with five times that)
_START = {"gate_prior": "fisher", "rounding": "threshold", "reg_learning_rate": 0.01}
_SMALL = {"prune_epochs": 2.0, "sparsity_warmup_epochs": 1.0, "finetune_epochs": 12.0}
_LARGE = {"prune_epochs": 1.0, "sparsity_warmup_epochs": 0.5, "finetune_epochs": 7.0}


def settings(task: str) -> dict[str, Any]:
    return {**gradual.settings(task), **_START, **(_SMALL if task in gradual.SMALL_TASKS else _LARGE)}
