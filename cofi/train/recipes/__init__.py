"""Recipes: named sets of settings. One file each, one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cofi.errors import UserError
from cofi.train.recipes import default, demo, gradual, official

Recipe = Callable[[str], dict[str, Any]]

RECIPES: dict[str, Recipe] = {
    "default": default.settings,
    "demo": demo.settings,
    "gradual": gradual.settings,
    "official": official.settings,
}


def recipe_settings(name: str, task: str) -> dict[str, Any]:
    """The settings of recipe `name` for `task`. Raises UserError for an unknown recipe."""
    if name not in RECIPES:
        raise UserError(f"--recipe must be one of {', '.join(RECIPES)}, got {name!r}")
    return {**RECIPES[name](task), "recipe": name}
