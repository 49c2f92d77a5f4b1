"""Latency as a function of what is kept, and the target that is a speedup.

    parts = fixed(E) + sum_i p_mha[i] attention(H_i, E) + p_ffn[i] ffn(I_i, E)        latency = whole(parts)

H_i, I_i, E: expected numbers of heads, intermediate dims and hidden dims kept. A removed sublayer costs nothing, one
that is kept without a unit its bias and LayerNorm. Tables are measured (`python -m cofi.profile`) and interpolated.

With masks of 0 and 1 this is the prediction for that very structure. In between, units of a layer count by their mean:
measured sublayers are nearly linear in their units (2.9 us a dim from 32 dims to 1,536 in all-MiniLM-L6-v2 on 32
sentences), so the latency of the mean is the mean of the latency, but for the start of the curve; and layer gates, the
only ones that leap, are weighed by their probability exactly. `whole` is what the sum of parts misses: sublayers
measured by themselves find their weights in a cache that a whole model overflows (at batch 1, 384 hidden dims: 0.36 ms
a layer by parts, 0.69 ms together).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cofi.masks.interpolation import Curve, Surface
from cofi.masks.shape import ModelShape
from cofi.masks.structure import Structure
from cofi.masks.target import PruningTarget, Value


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds of a pruned encoder of `shape`, its embeddings and head included.

    attention: rows are heads, columns hidden dims; ffn: rows are intermediate dims; fixed: over hidden dims, a model
    without a sublayer; whole: over the sum of parts
    """

    shape: ModelShape
    attention: Surface
    ffn: Surface
    fixed: Curve
    whole: Curve

    def parts(self, kept: Mapping[str, Tensor]) -> Tensor:
        """The sum of the parts where units are kept with the given probabilities, 0-dim fp32, differentiable.

        kept: as `PruningTarget.expected` takes it
        """
        shape, device = self.shape, self.fixed.knots.device
        full = torch.ones((), device=device)
        hidden = kept["hidden"].sum() if "hidden" in kept else full * shape.d_hidden
        every = torch.ones(shape.n_layers, device=device)
        heads = kept["head"].sum(1) if "head" in kept else every * shape.n_heads
        dims = kept["int"].sum(1) if "int" in kept else every * shape.d_int
        attention = kept.get("mha", every) * self.attention(heads, hidden)
        ffn = kept.get("ffn", every) * self.ffn(dims, hidden)
        return self.fixed(hidden) + attention.sum() + ffn.sum()

    def __call__(self, kept: Mapping[str, Tensor]) -> Tensor:
        """Latency in ms, 0-dim fp32, differentiable."""
        return self.whole(self.parts(kept))

    def of_structure(self, structure: Structure) -> float:
        """Latency in ms of an encoder of this structure."""
        return float(self(self.as_kept(structure)))

    def as_kept(self, structure: Structure) -> dict[str, Tensor]:
        """Masks of 0 and 1 that leave `structure`."""
        device = self.fixed.knots.device

        def first(count: int, size: int) -> Tensor:
            return (torch.arange(size, device=device) < count).float()

        shape = self.shape
        return {
            "head": torch.stack([first(n, shape.n_heads) for n in structure.heads]),
            "int": torch.stack([first(n, shape.d_int) for n in structure.intermediate]),
            "hidden": first(structure.hidden, shape.d_hidden),
            "mha": torch.tensor(structure.mha, device=device).float(),
            "ffn": torch.tensor(structure.ffn, device=device).float(),
        }

    def to(self, device: torch.device | str) -> LatencyModel:
        return LatencyModel(
            self.shape,
            self.attention.to(device),
            self.ffn.to(device),
            self.fixed.to(device),
            self.whole.to(device),
        )


class SpeedupTarget(PruningTarget):
    """Be `speedup` times as fast as the dense encoder: remove 1 - 1 / speedup of its latency.

    Raises ValueError for a speedup below 1, or one that not even removing every sublayer would reach.
    """

    unit = "speedup"

    def __init__(self, latency: LatencyModel, speedup: float) -> None:
        self.latency, self.speedup, self.goal = latency, speedup, 1 - 1 / speedup if speedup else 0.0
        self.dense_ms = float(latency({}))
        none = torch.zeros(latency.shape.n_layers)
        least_ms = float(latency.to("cpu")({"mha": none, "ffn": none}))
        self.most = self.dense_ms / least_ms if least_ms > 0 else math.inf
        if not 1 <= speedup < self.most:
            raise ValueError(
                f"speedup must be at least 1 and below {self.most:.1f}, which removing every sublayer gives, "
                f"got {speedup}"
            )

    def expected(self, kept: Mapping[str, Tensor]) -> Tensor:
        return 1 - self.latency(kept) / self.dense_ms

    def shown(self, share: Value) -> Value:
        return 1 / (1 - share)

    def to(self, device: torch.device | str) -> SpeedupTarget:
        """Reads nothing on the host, and what was read when the target was made stays to the bit."""
        moved = copy.copy(self)
        moved.latency = self.latency.to(device)
        return moved
