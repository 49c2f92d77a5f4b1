"""Runs that die in the middle as if they had been killed: nothing is saved after that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cofi.train import loop


class Killed(Exception):
    """No error of the program's own, so nothing handles it."""


@contextmanager
def killed_when(due: Callable[[loop.PhaseLoop, loop.Position], bool]) -> Iterator[None]:
    """Runs started inside die after the first step that is due; it is a failure when none does."""
    after_step = loop.PhaseLoop._after_step

    def die(self: loop.PhaseLoop, position: loop.Position, *args: Any) -> None:
        after_step(self, position, *args)
        if due(self, position):
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop.PhaseLoop, "_after_step", die)
        yield


def killed_after(step: int) -> Any:
    """`killed_when` this many steps of the run, over all its phases, are taken."""
    return killed_when(lambda _, position: position.global_step == step)
