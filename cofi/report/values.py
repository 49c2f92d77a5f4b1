"""Numbers of a run as text, and a safe way to read them from files that may hold anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cofi.errors import UserError

MISSING = "-"
MINUS = "\u2212"
TIMES = "\u00d7"
MAX_LAYERS = 1000  # a figure row each: more is a broken file, not a model


def number(mapping: Mapping[str, Any], key: str) -> float | None:
    """The finite number under `key`, or None where it is absent, null, not a number or not finite."""
    return finite(mapping.get(key))


def finite(value: Any) -> float | None:
    """`value` as a float where it is a finite number (booleans are not), otherwise None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        as_float = float(value)
    except OverflowError:
        return None
    return as_float if math.isfinite(as_float) else None


def numbers(mapping: Mapping[str, Any], key: str) -> dict[str, float]:
    """The finite numbers of the mapping under `key`, by name; empty where there is none."""
    inner = mapping.get(key)
    if not isinstance(inner, Mapping):
        return {}
    values = {str(name): finite(value) for name, value in inner.items()}
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Sizes:
    """Kept units: heads and intermediate dims per layer (0 = sublayer removed), hidden dims of the whole model."""

    heads: tuple[int, ...]
    intermediate: tuple[int, ...]
    hidden: int


def read_sizes(value: Any, where: str) -> Sizes | None:
    """A `structure` object of a run file; None where it is absent.

    Raises UserError naming `where` for an object that is not {"heads": [...], "intermediate": [...], "hidden": n}.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: structure must be an object, got {type(value).__name__}")
    heads, intermediate = (_counts(value.get(key), f"{where}: structure.{key}") for key in ("heads", "intermediate"))
    hidden = _counts([value.get("hidden")], f"{where}: structure.hidden")[0]
    if len(heads) != len(intermediate) or not 0 < len(heads) <= MAX_LAYERS:
        raise UserError(
            f"{where}: structure.heads and structure.intermediate must have one entry per layer (1 to {MAX_LAYERS}), "
            f"got {len(heads)} and {len(intermediate)}"
        )
    return Sizes(heads, intermediate, hidden)


def _counts(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"{where} must be a list of counts, got {value!r:.80}")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 2**31:
            raise UserError(f"{where} must hold counts (integers from 0), got {item!r:.80}")
    return tuple(value)


def three_figures(value: float) -> str:
    """0.01234 -> '0.0123', 49.71 -> '49.7', 612.4 -> '612': three significant figures, never an exponent."""
    rounded = float(f"{value:.3g}")
    decimals = 2 - math.floor(math.log10(abs(rounded))) if rounded else 2
    return f"{rounded:.{max(0, decimals)}f}"


def show_count(value: float | None) -> str:
    """4330279 -> '4.33 M'."""
    if value is None:
        return MISSING
    rounded = float(f"{value:.3g}")
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(rounded) >= size:
            return three_figures(rounded / size) + unit
    return f"{value:.0f}"


def show_ratio(value: float | None) -> str:
    """12.13 -> '12.1' and a multiplication sign."""
    return MISSING if value is None else three_figures(value) + TIMES


def show_score(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def show_change(value: float | None) -> str:
    """A difference of scores with its sign, a true minus sign included."""
    if value is None:
        return MISSING
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def show_percent(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{100 * fraction:.1f} %"


def show_ms(value: float | None) -> str:
    return MISSING if value is None else three_figures(value)


def show_seconds(value: float | None) -> str:
    """75.2 -> '1 min 15 s'."""
    if value is None:
        return MISSING
    if float(f"{value:.1f}") < 60:
        return f"{value:.1f} s"
    total = round(value)
    hours, rest = divmod(total, 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s"
