"""Mask values: one sample, or the deterministic masks, of every mask kind in use.

Shape letters: H heads, E hidden, I intermediate, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cofi.masks.kinds import MASK_KINDS
from cofi.masks.shape import ModelShape
from cofi.masks.structure import Structure


@dataclass(frozen=True, eq=False)
class LayerMasks:
    """Masks of one layer: z_head (H,), z_int (I,), z_hidden (E,), z_mha and z_ffn 0-dim; None means not masked."""

    z_head: Tensor | None = None
    z_int: Tensor | None = None
    z_hidden: Tensor | None = None
    z_mha: Tensor | None = None
    z_ffn: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Masks:
    """Masks of the whole encoder, values in [0, 1]; None means not masked, which is the same as all ones.

    z_head (L, H), z_int (L, I), z_hidden (E,) shared by all layers, z_mha (L,), z_ffn (L,)
    """

    z_head: Tensor | None = None
    z_int: Tensor | None = None
    z_hidden: Tensor | None = None
    z_mha: Tensor | None = None
    z_ffn: Tensor | None = None

    @classmethod
    def from_kinds(cls, values: Mapping[str, Tensor]) -> Masks:
        """Masks from {kind name: mask}. Raises ValueError for a name that is no mask kind."""
        for name in values:
            if name not in MASK_KINDS:
                raise ValueError(f"mask kinds must be any of {', '.join(MASK_KINDS)}, got {name!r}")
        return cls(**{f"z_{name}": value for name, value in values.items()})

    def by_kind(self) -> dict[str, Tensor]:
        """{kind name: mask} of the kinds that are present, in the order of MASK_KINDS."""
        values = {name: getattr(self, f"z_{name}") for name in MASK_KINDS}
        return {name: value for name, value in values.items() if value is not None}

    def layer(self, index: int) -> LayerMasks:
        """The masks that layer `index` applies."""

        def row(z: Tensor | None) -> Tensor | None:
            return None if z is None else z[index]

        return LayerMasks(row(self.z_head), row(self.z_int), self.z_hidden, row(self.z_mha), row(self.z_ffn))

    def layers(self, n_layers: int) -> list[LayerMasks]:
        """`layer` of each layer, with one backward a mask: that of an index fills a whole mask, for every layer."""

        def rows(z: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * n_layers if z is None else z.unbind(0)

        each = zip(rows(self.z_head), rows(self.z_int), rows(self.z_mha), rows(self.z_ffn), strict=True)
        return [LayerMasks(head, inner, self.z_hidden, mha, ffn) for head, inner, mha, ffn in each]

    def without_empty_sublayers(self) -> Masks:
        """The same masks, where a sublayer that no unit is left of is gone too: its bias and its LayerNorm.

        Only of those that have a mask of their own. Without units a sublayer computes nothing, and costs a pass over
        the states.
        """

        def filled(layers: Tensor | None, units: Tensor | None) -> Tensor | None:
            return layers if layers is None or units is None else layers * (units != 0).any(1)

        return replace(self, z_mha=filled(self.z_mha, self.z_head), z_ffn=filled(self.z_ffn, self.z_int))

    def to(self, device: torch.device | str) -> Masks:
        return self._map(lambda z: z.to(device))

    def detach(self) -> Masks:
        return self._map(Tensor.detach)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Masks:
        return Masks.from_kinds({name: change(z) for name, z in self.by_kind().items()})

    def check(self, shape: ModelShape) -> None:
        """Raise ValueError where a mask does not fit `shape`."""
        for name, z in self.by_kind().items():
            expected = MASK_KINDS[name].units(shape)
            if tuple(z.shape) != expected:
                raise ValueError(f"z_{name} must have shape {expected}, got {tuple(z.shape)}")

    def alive(self) -> dict[str, Tensor]:
        """{kind name: fp32, 1 where a unit is not masked out, else 0} of the kinds that are present."""
        return {name: (z.detach() != 0).float() for name, z in self.by_kind().items()}

    def live_layers(self, n_layers: int) -> Tensor:
        """(n_layers,) bool, on the masks' device: the layer's attention or its FFN is not masked out.

        The official code looks at z_mha alone. A sublayer whose units are all dead is still alive here when its layer
        mask is on: it adds its bias and normalizes, so the state after it is a new one.
        """
        present = list(self.by_kind().values())
        device = present[0].device if present else torch.device("cpu")
        live = torch.zeros(n_layers, dtype=torch.bool, device=device)
        for z in (self.z_mha, self.z_ffn):
            live = live | (torch.ones_like(live) if z is None else z != 0)
        return live

    def structure(self, shape: ModelShape) -> Structure:
        """What is left of an encoder of `shape` under these masks. Reads the masks on the host.

        Raises ValueError where a mask does not fit `shape`.
        """
        self.check(shape)
        mha = _alive(self.z_mha, (shape.n_layers,))
        ffn = _alive(self.z_ffn, (shape.n_layers,))
        heads = _alive(self.z_head, (shape.n_layers, shape.n_heads)).sum(1) * mha
        intermediate = _alive(self.z_int, (shape.n_layers, shape.d_int)).sum(1) * ffn
        return Structure(
            heads=tuple(heads.tolist()),
            intermediate=tuple(intermediate.tolist()),
            hidden=int(_alive(self.z_hidden, (shape.d_hidden,)).sum()),
            mha=tuple(mha.tolist()),
            ffn=tuple(ffn.tolist()),
        )


def _alive(z: Tensor | None, units: tuple[int, ...]) -> Tensor:
    """Bool on the host: which units are not masked out."""
    return torch.ones(units, dtype=torch.bool) if z is None else (z.detach() != 0).cpu()
