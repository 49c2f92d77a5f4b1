"""From the command line to a TrainConfig: recipe first, then the flags that were really given."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser

from cofi.cli import OneLineErrors
from cofi.errors import UserError
from cofi.train.config import TrainConfig, changes
from cofi.train.recipes import RECIPES, recipe_settings


class _NotGiven:
    """Stands for a flag that was not given, and prints as the default in the help text."""

    def __init__(self, default: Any) -> None:
        self.default = default

    def __repr__(self) -> str:
        return f"the recipe's, or {self.default}"


class _Parser(OneLineErrors, HfArgumentParser):
    """transformers' parser of dataclasses, with our errors."""


def build_parser() -> HfArgumentParser:
    parser = _Parser(
        TrainConfig,  # type: ignore[arg-type]  # its hint asks for an older dataclass protocol
        prog="python -m cofi.train",
        description="Prune a fine-tuned Transformer encoder into a small one (CoFi). Without arguments: recipe 'demo'.",
        epilog=f"Recipes: {', '.join(RECIPES)}. Flags override the recipe.",
        allow_abbrev=False,
    )
    parser.set_defaults(**{f.name: _NotGiven(f.default) for f in dataclasses.fields(TrainConfig)})
    return parser


def parse_given(argv: Sequence[str] | None) -> dict[str, Any]:
    """The flags that were given, by field name."""
    values = vars(build_parser().parse_args(argv))
    return {name: value for name, value in values.items() if not isinstance(value, _NotGiven)}


def resolve(given: dict[str, Any]) -> TrainConfig:
    """Recipe and flags together. Without a recipe: 'demo' for its own task, 'default' for any other."""
    recipe = given.get("recipe")
    if recipe is None:
        recipe = "demo" if not {"task", "model", "teacher", "data", "train_file"} & set(given) else "default"
    task = given.get("task", "pydocs" if "train_file" not in given else "text")
    return TrainConfig(**{"task": task, **recipe_settings(recipe, task), **given})


def check_resumed(stored: TrainConfig, given: dict[str, Any]) -> None:
    """Raise UserError where a flag contradicts the run that is to be continued."""
    changed = changes(stored.to_dict(), given)
    if changed:
        raise UserError("--resume continues a run with its own settings; it cannot change " + ", ".join(changed))
