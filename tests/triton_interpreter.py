"""Triton's interpreter as the tests need it, which are most of their time there: right under numpy 2.4, and faster."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def mend(patch: pytest.MonkeyPatch) -> None:
    """Do nothing where Triton is not installed or its kernels run on a GPU."""
    if os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None:
        return
    from triton.runtime import interpreter

    _loop_over_device_values(interpreter, patch)
    _replace_the_language_once_a_launch(interpreter, patch)
    # checks of indices for overflow were another third; no tensor of a test is so large
    patch.setattr(interpreter.interpreter_builder, "options", interpreter.InterpreterOptions(sanitize_overflow=False))


def _loop_over_device_values(interpreter: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Let a loop bound be a tensor under numpy 2.4, as triton does since pull request 9172 (after 3.6)."""
    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: type, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    patch.setattr(interpreter, "_patch_lang_tensor", patched)


def _replace_the_language_once_a_launch(interpreter: ModuleType, patch: pytest.MonkeyPatch) -> None:
    """Not at every call of a device function too, which was a quarter of the time of masked attention's tests."""
    replace, language = interpreter._patch_lang, {interpreter.tl, interpreter.tl.core}
    replaced: set[ModuleType] = set()

    class Scope(interpreter._LangPatchScope):  # type: ignore[name-defined, misc]
        def restore(self) -> None:
            super().restore()
            replaced.clear()

    @functools.cache
    def language_of(fn: Callable[..., Any]) -> set[ModuleType]:
        return {value for value in fn.__globals__.values() if isinstance(value, ModuleType) and value in language}

    def once(fn: Callable[..., Any]) -> Any:
        used = language_of(fn)
        if used and used <= replaced:
            return Scope()
        replaced.update(used)
        return replace(fn)

    patch.setattr(interpreter, "_LangPatchScope", Scope)
    patch.setattr(interpreter, "_patch_lang", once)
