"""From the command line to a TrainConfig: recipe first, then the flags that were really given."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from transformers import HfArgumentParser

from cofi.baselines import METHODS
from cofi.cli import OneLineErrors
from cofi.data.tasks import TASKS
from cofi.distill import STRATEGIES
from cofi.errors import UserError
from cofi.train.config import TrainConfig, changes
from cofi.train.recipes import RECIPES, recipe_settings
from cofi.train.recipes.official import SMALL_TASKS


class _NotGiven:
    """Stands for a flag that was not given."""

    def __init__(self, default: Any) -> None:
        self.default = default


VALUES: dict[Any, str] = {int: "N", float: "X"}  # what stands for a value in the help, by its type
EPILOG = (
    f"Tasks: {', '.join(TASKS)}, or a folder of --data. Strategies of --matching: {', '.join(STRATEGIES)}. "
    f"Methods: {', '.join(METHODS)}. "
    f"Recipes: {', '.join(RECIPES)}; what a recipe sets replaces the default, flags override both. Without --recipe "
    "it is 'demo', or 'default' where --task, --model, --teacher, --data or --train-file is given."
)


class _Parser(OneLineErrors, HfArgumentParser):
    """transformers' parser of dataclasses, with our errors."""


def build_parser() -> HfArgumentParser:
    parser = _Parser(
        TrainConfig,  # type: ignore[arg-type]  # its hint asks for an older dataclass protocol
        prog="python -m cofi.train",
        description="Prune a fine-tuned Transformer encoder into a small one (CoFi). Without arguments: recipe 'demo'.",
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.HelpFormatter,
    )
    parser.set_defaults(**{f.name: _NotGiven(f.default) for f in dataclasses.fields(TrainConfig)})
    usual = _usual()
    for action in parser._actions:
        if isinstance(action.default, _NotGiven):
            _describe(action, action.default.default, usual.get(action.dest, ()))
    return parser


def _usual() -> dict[str, tuple[Any, ...]]:
    """What the recipe 'default' sets, by field: one value, or that of one's own rows and that of GLUE's small tasks."""
    of_tasks = [recipe_settings("default", task) for task in ("text", SMALL_TASKS[0])]
    names = dict.fromkeys(name for found in of_tasks for name in found if name not in ("recipe", "task"))
    return {name: tuple(dict.fromkeys(found[name] for found in of_tasks if name in found)) for name in names}


def _describe(action: argparse.Action, default: Any, usual: Sequence[Any]) -> None:
    """What the help says of a flag: one spelling (one with underscores is taken too), a short value, its defaults."""
    action.option_strings = [name for name in action.option_strings if "_" not in name]
    name = action.option_strings[0]
    if action.nargs == 0:
        action.help = f"turn {name.replace('--no-', '--')} off"
        return
    if action.choices is None:
        action.metavar = VALUES.get(action.type, "TRUE|FALSE" if action.nargs == "?" else "NAME")
    notes = [f"default: {default}"] if default is not None and default is not False else []
    if None not in usual and tuple(usual) not in ((), (default,)):  # None: the flag's own text says what that is
        notes.append(f"recipe 'default': {', for small tasks of GLUE '.join(map(str, usual))}")
    if notes:
        action.help = f"{action.help} ({'; '.join(notes)})"


def parse_given(argv: Sequence[str] | None) -> dict[str, Any]:
    """The flags that were given, by field name."""
    values = vars(build_parser().parse_args(argv))
    return {name: value for name, value in values.items() if not isinstance(value, _NotGiven)}


def resolve(given: dict[str, Any]) -> TrainConfig:
    """Recipe and flags together. Without a recipe: 'demo' for its own task, 'default' for any other.

    A teacher without a model is what is pruned as well.
    """
    if given.get("target_speedup") is not None and "sparsity" in given:
        raise UserError("--target-speedup takes the place of --sparsity: give one of them")
    recipe = given.get("recipe")
    if recipe is None:
        recipe = "demo" if not {"task", "model", "teacher", "data", "train_file"} & set(given) else "default"
    task = given.get("task", "pydocs" if "train_file" not in given else "text")
    settings = {**recipe_settings(recipe, task), "task": task, **given}
    if given.get("teacher") is not None and "model" not in settings:  # what else would one want pruned?
        settings = {"student_init": "teacher", **settings, "model": given["teacher"]}
    return TrainConfig(**settings)


def check_resumed(stored: TrainConfig, given: dict[str, Any]) -> None:
    """Raise UserError where a flag contradicts the run that is to be continued."""
    changed = changes(stored.to_dict(), given)
    if changed:
        raise UserError("--resume continues a run with its own settings; it cannot change " + ", ".join(changed))
