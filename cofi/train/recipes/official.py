"""The settings of the paper and its scripts (method of Xia et al. 2022, table of hyper-parameters).

Days of work for a CPU: meant for a GPU, and for comparing with published numbers.
"""

from __future__ import annotations

from typing import Any

SMALL_TASKS = ("cola", "stsb", "mrpc", "rte")  # of GLUE, below 10,000 rows: the paper prunes these for more epochs

_COMMON = {
    "model": "google-bert/bert-base-uncased",
    "student_init": "model",
    "learning_rate": 2e-5,
    "reg_learning_rate": 0.01,
    "batch_size": 32,
    "finetune_epochs": 20.0,
    "finetune_learning_rate": 2e-5,
    "finetune_schedule": "constant",
    "distill_temperature": 2.0,
    "prediction_weight": 0.1,
    "layer_weight": 0.9,
    "matching": "nearest",
    "int_init_mean": 0.0,
    "constraint": "expected",
    "sparsity_ramp": "linear",
}
# the paper's "pruning epochs" (100 and 20) include the distil-only phase
_SMALL = {"distil_epochs": 4.0, "prune_epochs": 96.0, "sparsity_warmup_epochs": 20.0, "eval_steps": 50}
_LARGE = {"distil_epochs": 1.0, "prune_epochs": 19.0, "sparsity_warmup_epochs": 2.0, "eval_steps": 500}
_SQUAD = {**_LARGE, "batch_size": 16, "learning_rate": 3e-5, "max_length": 384}


def settings(task: str) -> dict[str, Any]:
    if task == "squad":
        return {**_COMMON, **_SQUAD}
    return {**_COMMON, **(_SMALL if task in SMALL_TASKS else _LARGE)}
