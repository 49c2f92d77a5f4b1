"""What a run of a sweep is asked for: a sparsity, or a speedup by a profile of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cofi.report.values import show_percent, show_ratio

SPARSITY, SPEEDUP = "sparsity", "speedup"


@dataclass(frozen=True, order=True)
class Goal:
    """kind: SPARSITY or SPEEDUP. Goals sort by kind, then from large models to small ones."""

    kind: str
    value: float

    @classmethod
    def read(cls, fields: Mapping[str, Any], prefix: str = "") -> Goal:
        """From what names a point, where only one of the two has a value. Raises KeyError where none has."""
        speedup = fields.get(prefix + SPEEDUP)
        return cls(SPARSITY, float(fields[prefix + SPARSITY])) if speedup is None else cls(SPEEDUP, float(speedup))

    def fields(self, prefix: str = "") -> dict[str, float]:
        """The inverse of `read`."""
        return {prefix + self.kind: self.value}

    @property
    def label(self) -> str:
        """In the name of a point: s80, x4.5."""
        return f"s{round(100 * self.value, 6):g}" if self.kind == SPARSITY else f"x{self.value:g}"

    def __str__(self) -> str:
        return show_percent(self.value) if self.kind == SPARSITY else show_ratio(self.value)
