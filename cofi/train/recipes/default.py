"""Settings for a task of one's own or of GLUE on modest hardware: far fewer epochs than the paper.

The student starts from the teacher unless a --teacher is given beside --model. Gates are set by Fisher scores in four
leaps, so learning only has to mend each structure and most of the epochs are left for the model that was cut. The
recipe gradual, whose gates learn all of it in as many epochs, is behind by some points (docs/tried.md).
"""

from __future__ import annotations

from typing import Any

from cofi.train.recipes import gradual
from cofi.train.recipes.official import SMALL_TASKS

# the gates' rate is the paper's: they have no far way to go (CoLA at 95 %: 24.6, and 23.5 with five times that)
_START = {"gate_prior": "fisher", "gate_prior_rounds": 4, "rounding": "threshold", "reg_learning_rate": 0.01}
_SMALL = {"prune_epochs": 3.0, "sparsity_warmup_epochs": 2.0, "finetune_epochs": 11.0}
_LARGE = {"prune_epochs": 1.5, "sparsity_warmup_epochs": 1.0, "finetune_epochs": 6.5}


def settings(task: str) -> dict[str, Any]:
    return {**gradual.settings(task), **_START, **(_SMALL if task in SMALL_TASKS else _LARGE)}
