"""The ranges of settings that are numbers, and the flag that an error names."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any

from cofi.errors import UserError

# name -> (lowest, highest, lowest allowed?, highest allowed?)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "sparsity": (0, 1, True, False),
    "target_speedup": (1, inf, True, False),
    "start_sparsity": (0, 1, True, False),
    "sparsity_epsilon": (0, 1, True, False),
    "validation_fraction": (0, 1, False, False),
    "lr_warmup": (0, 1, True, False),
    "seed": (0, 2**31, True, False),
    "augment": (0, 20, True, True),
    "augment_probability": (0, 1, False, True),
    "init_mean": (-inf, inf, False, False),
    "int_init_mean": (-inf, inf, False, False),
}
_POSITIVE = [
    "gate_prior_rounds",
    "threads",
    "max_train_samples",
    "max_eval_samples",
    "max_length",
    "doc_stride",
    "batch_size",
    "eval_batch_size",
    "matched_layers",
    "eval_steps",
    "log_steps",
    "prune_epochs",
    "teacher_learning_rate",
    "learning_rate",
    "finetune_learning_rate",
    "reg_learning_rate",
    "distill_temperature",
]
_NOT_NEGATIVE = [
    "teacher_epochs",
    "distil_epochs",
    "sparsity_warmup_epochs",
    "finetune_epochs",
    "weight_decay",
    "max_grad_norm",
    "prediction_weight",
    "layer_weight",
    "save_seconds",
    "measure_seconds",
]


def flag(name: str) -> str:
    """The command-line spelling of a field."""
    return "--" + name.replace("_", "-")


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raise UserError for the first value of a setting, by field name, that is out of its range. None is in any."""
    ranges = dict(_RANGES)
    ranges.update({name: (0, inf, False, False) for name in _POSITIVE})
    ranges.update({name: (0, inf, True, False) for name in _NOT_NEGATIVE})
    for name, (low, high, low_ok, high_ok) in ranges.items():
        value = values[name]
        if value is None:
            continue
        inside = (low <= value if low_ok else low < value) and (value <= high if high_ok else value < high)
        if not inside:
            bounds = f"{'[' if low_ok else '('}{low}, {high}{']' if high_ok else ')'}"
            raise UserError(f"{flag(name)} must be in {bounds}, got {value}")
