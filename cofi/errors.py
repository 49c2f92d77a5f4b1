"""The one error that commands show to users without a traceback."""

from __future__ import annotations

from collections.abc import Sequence

_FEW = 12


class UserError(Exception):
    """Something the user gave cannot be used; the message names the thing, the rule and the value."""


def first_few(names: Sequence[str]) -> str:
    """Names for a message, which a thousand of them would bury."""
    return ", ".join(names[:_FEW]) + (" ..." if len(names) > _FEW else "")
