"""CoFi's own way to its masks within few epochs: all gates start alike, and the target ramps up.

The gates' learning rate is raised so that log-odds can cross their whole range (9.2) within the ramp. The size that is
held to the target is that of the exported masks. The ramp is cubic: a linear one cuts the last third of the weights,
those that count, as fast as the first (CoLA at 95 %: 6 instead of 17; docs/tried.md). Fine-tuning of the cut
model is cheap and gains most: on the demo's task it brought back 7.6 points of accuracy at 92 % sparsity.
"""

from __future__ import annotations

from typing import Any

from cofi.train.recipes.official import SMALL_TASKS

_COMMON = {
    "learning_rate": None,  # by the size of the student; the paper has 2e-5
    "finetune_learning_rate": None,
    "finetune_schedule": "linear",
    "reg_learning_rate": 0.05,
    "lr_warmup": 0.05,
    "constraint": "kept",
    "sparsity_ramp": "cubic",
    "prediction_weight": 0.5,
    "layer_weight": 0.5,
}
_SMALL = {"teacher_epochs": 4.0, "prune_epochs": 6.0, "sparsity_warmup_epochs": 3.0, "finetune_epochs": 8.0}
_LARGE = {"teacher_epochs": 3.0, "prune_epochs": 4.0, "sparsity_warmup_epochs": 2.0, "finetune_epochs": 4.0}
_SQUAD = {"teacher_epochs": 2.0, "batch_size": 16}


def settings(task: str) -> dict[str, Any]:
    if task == "squad":
        return {**_COMMON, **_LARGE, **_SQUAD}
    return {**_COMMON, **(_SMALL if task in SMALL_TASKS else _LARGE)}
