"""Flags that were given and do nothing beside what else is set. They are allowed, and said."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from cofi.baselines import COFI, MOVEMENT, ONE_SHOT
from cofi.train.config import TrainConfig
from cofi.train.ranges import flag

_OF_GATES = (
    *("mask_kinds", "constraint", "rounding", "gate_prior", "gate_prior_rounds"),
    *("sparsity_ramp", "start_sparsity", "init_mean", "int_init_mean"),
)


@dataclass(frozen=True)
class _Rule:
    """idle: settings that do nothing where `holds`; why: the setting that it is because of."""

    holds: Callable[[TrainConfig], bool]
    idle: tuple[str, ...]
    why: str


_RULES = (
    _Rule(lambda c: c.method in ONE_SHOT, (*_OF_GATES, "reg_learning_rate", "sparsity_warmup_epochs"), "method"),
    _Rule(lambda c: c.method == MOVEMENT, _OF_GATES, "method"),
    _Rule(
        lambda c: c.method == COFI and c.gate_prior != "none",
        ("sparsity_ramp", "start_sparsity", "int_init_mean"),
        "gate_prior",
    ),
    _Rule(lambda c: c.method == COFI and c.gate_prior == "none", ("gate_prior_rounds",), "gate_prior"),
    _Rule(lambda c: c.teacher is not None, ("teacher_epochs", "teacher_learning_rate"), "teacher"),
    _Rule(
        lambda c: not c.distill,
        ("distill_temperature", "prediction_weight", "layer_weight", "matching", "matched_layers", "teacher_cache"),
        "distill",
    ),
    _Rule(lambda c: not c.augment, ("augment_probability",), "augment"),
)


def idle_flags(given: Collection[str], config: TrainConfig) -> Iterator[str]:
    """A sentence for each setting of `given`, by field name, that makes no difference to the run."""
    for rule in _RULES:
        if rule.holds(config):
            for name in rule.idle:
                if name in given:
                    yield f"{flag(name)} has no effect with {flag(rule.why)} {getattr(config, rule.why)}"
