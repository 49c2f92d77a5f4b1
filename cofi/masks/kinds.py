"""The five mask kinds of CoFi (Xia et al. 2022, section 3): which units a kind gates and how its gates start."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cofi.masks.shape import ModelShape


@dataclass(frozen=True)
class MaskKind:
    """One mask kind.

    name:         short name, as in `--mask-kinds head,int`; the mask itself is called `z_<name>`
    units:        shape of this kind's loga and mask
    vector_size:  units that one deterministic mask rounds together (official: heads and intermediate dims by layer,
                  hidden dims all together, a sublayer by itself); divides the number of units
    initial_mean: mean of loga before the first step in the official code
    """

    name: str
    units: Callable[[ModelShape], tuple[int, ...]]
    vector_size: Callable[[ModelShape], int]
    initial_mean: float


_KINDS = (
    MaskKind("head", lambda s: (s.n_layers, s.n_heads), lambda s: s.n_heads, 10.0),
    # log(d / (1 - d)) with a drop rate d of one half, where the other kinds have a plain 10
    MaskKind("int", lambda s: (s.n_layers, s.d_int), lambda s: s.d_int, 0.0),
    MaskKind("hidden", lambda s: (s.d_hidden,), lambda s: s.d_hidden, 10.0),
    MaskKind("mha", lambda s: (s.n_layers,), lambda s: 1, 10.0),
    MaskKind("ffn", lambda s: (s.n_layers,), lambda s: 1, 10.0),
)

MASK_KINDS: dict[str, MaskKind] = {kind.name: kind for kind in _KINDS}


def parse_kinds(kinds: str | Iterable[str]) -> tuple[str, ...]:
    """The mask kinds named in `kinds` ("head,int", "all" or a list of names), in the order of MASK_KINDS.

    Raises ValueError, listing the valid names, for an unknown name and where none is given.
    """
    names = kinds.split(",") if isinstance(kinds, str) else list(kinds)
    names = [name.strip() for name in names]
    if names == ["all"]:
        return tuple(MASK_KINDS)
    valid = f"any of {', '.join(MASK_KINDS)} or all"
    unknown = [name for name in names if name not in MASK_KINDS]
    if unknown:
        raise ValueError(f"mask kinds must be {valid}, got {unknown[0]!r}")
    if not names:
        raise ValueError(f"mask kinds must be {valid}, got none")
    return tuple(name for name in MASK_KINDS if name in names)
