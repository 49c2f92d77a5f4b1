"""The learned gates: one log-odds parameter per unit, all kinds in one flat vector so that one launch serves all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict

import torch
from torch import Tensor, nn

import cofi_kernels
from cofi.masks.kinds import MASK_KINDS, parse_kinds
from cofi.masks.masks import Masks
from cofi.masks.shape import ModelShape
from cofi_kernels.hard_concrete.reference import GAMMA, MAGIC_SCALE, TEMPERATURE, ZETA

MAX_LOGA = math.log(100.0)  # loga stays within [-MAX_LOGA, MAX_LOGA] after each step, as in the official code
TIES_SPREAD = 0.2  # of log-odds: of 37,000 gates (BERT-base) two neighbours then are further apart than `fit` sees

INIT_MEANS: dict[str, dict[str, float]] = {
    "official": {name: kind.initial_mean for name, kind in MASK_KINDS.items()},
    "sheared": dict.fromkeys(MASK_KINDS, 5.0),  # LLM-Shearing (Xia et al. 2024): every kind starts alike
}

# how many units of a vector stay in the deterministic masks
ROUNDINGS = (
    "expected",  # as many as are expected to (the paper): also a twentieth of those that are as shut as can be
    "threshold",  # those whose chance is above one half; a sublayer without any is cut as well
)


class Gates(nn.Module):
    """Hard-concrete gates of the mask kinds in use.

    shape:        sizes of the dense encoder
    kinds:        mask kinds to learn, as `parse_kinds` takes them; the others are never masked
    temperature:  of the hard-concrete distribution
    magic_scale:  scale of the deterministic masks (Wang et al. 2020)
    init_means:   name in INIT_MEANS, or {kind: mean} (kinds left out start as in "official"); None is "official"
    init_std:     standard deviation of loga at the start
    rounding:     name in ROUNDINGS: how `deterministic` chooses the units that are cut
    seed:         of the initial loga; the global generator is not touched

    `loga` (n,) fp32 holds the kinds in the order of MASK_KINDS, each row-major. `offsets` (V+1,) int32 holds the
    boundaries of the vectors that are rounded together by the deterministic masks.
    Raises ValueError for unknown kinds, means or rounding.
    """

    offsets: Tensor

    def __init__(
        self,
        shape: ModelShape,
        kinds: str | Iterable[str],
        *,
        temperature: float = TEMPERATURE,
        magic_scale: float = MAGIC_SCALE,
        init_means: str | Mapping[str, float] | None = None,
        init_std: float = 0.01,
        rounding: str = "expected",
        seed: int,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.kinds = parse_kinds(kinds)
        self.temperature = temperature
        self.magic_scale = magic_scale
        if rounding not in ROUNDINGS:
            raise ValueError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")
        self.rounding = rounding
        self._units = {name: MASK_KINDS[name].units(shape) for name in self.kinds}
        means = _resolve_means(init_means)
        mean = torch.cat([torch.full((math.prod(units),), means[name]) for name, units in self._units.items()])
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        self.loga = nn.Parameter(mean + init_std * noise)
        self.register_buffer("offsets", _vector_offsets(shape, self.kinds), persistent=False)

    def views(self) -> dict[str, Tensor]:
        """{kind: its part of loga, in the kind's own shape}; views, so writing to them (no grad) sets the gates."""
        return self._split(self.loga)

    def sample(self, noise: Tensor) -> Masks:
        """Training masks, differentiable in loga.

        noise: (n,) fp32 uniform in (0, 1), or an int64 (2,) counter state [seed, offset] of `counter_uniform`
        """
        return Masks.from_kinds(self._split(cofi_kernels.hard_concrete(self.loga, noise, temperature=self.temperature)))

    def deterministic(self, shifts: Mapping[str, float] | None = None) -> Masks:
        """Evaluation masks: some units are cut, by `rounding`, the others keep their soft value.

        shifts: {kind: added to its log-odds when it is decided what is cut}; soft values stay those of the gates
        """
        loga = self.loga.detach()
        decided = loga if self.rounding == "expected" else self._without_ties(loga)
        if any((shifts or {}).values()):
            parts = self._split(decided).items()
            decided = torch.cat([view.flatten() + (shifts or {}).get(kind, 0.0) for kind, view in parts])
        if decided is loga:
            return Masks.from_kinds(self._split(self._round_expected(loga)))
        cut = self._round_expected(decided) == 0 if self.rounding == "expected" else decided <= self.even
        soft = torch.sigmoid(loga / self.temperature * self.magic_scale)
        masks = Masks.from_kinds(self._split(soft.masked_fill(cut, 0.0)))
        return masks if self.rounding == "expected" else masks.without_empty_sublayers()

    def _without_ties(self, loga: Tensor) -> Tensor:
        """loga with those at a limit spread out beyond it, or one shift would open or shut all of them together."""
        at_limit = (loga.abs() >= MAX_LOGA - 1e-6).to(loga.dtype)
        order = torch.linspace(0.0, TIES_SPREAD, loga.numel(), device=loga.device)
        return loga + at_limit * loga.sign() * order

    def _round_expected(self, loga: Tensor) -> Tensor:
        return cofi_kernels.deterministic_masks(
            loga, self.offsets, temperature=self.temperature, magic_scale=self.magic_scale
        )

    @property
    def even(self) -> float:
        """The log-odds at which P(z > 0) is one half."""
        return self.temperature * math.log(-GAMMA / ZETA)

    def keep_probabilities(self) -> dict[str, Tensor]:
        """{kind: P(z > 0)} in the kind's own shape, differentiable in loga."""
        return self._split(cofi_kernels.keep_probability(self.loga, temperature=self.temperature))

    @torch.no_grad()
    def clamp_(self) -> None:
        """Bring loga back into its range; due after every optimizer step, not at the start."""
        self.loga.clamp_(-MAX_LOGA, MAX_LOGA)

    def get_extra_state(self) -> Tensor:
        """What loga means: kinds, sizes and constants as JSON in a byte tensor, which every tensor format can hold."""
        return torch.tensor(list(json.dumps(self._meaning()).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Check that a saved state is of these very gates. Raises ValueError naming what differs."""
        # gates saved before there was a choice do not name their rounding
        saved, own = {"rounding": "expected", **json.loads(bytes(state.tolist()))}, self._meaning()
        for name, value in own.items():
            if saved.get(name) != value:
                raise ValueError(f"saved gates must have {name} {value}, got {saved.get(name)}")

    def _meaning(self) -> dict[str, object]:
        return {
            "kinds": list(self.kinds),
            "shape": asdict(self.shape),
            "temperature": self.temperature,
            "magic_scale": self.magic_scale,
            "rounding": self.rounding,
        }

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split([math.prod(units) for units in self._units.values()])
        return {name: part.view(units) for part, (name, units) in zip(parts, self._units.items(), strict=True)}


def _resolve_means(init_means: str | Mapping[str, float] | None) -> dict[str, float]:
    if isinstance(init_means, str):
        if init_means not in INIT_MEANS:
            raise ValueError(f"init_means must be one of {', '.join(INIT_MEANS)}, got {init_means!r}")
        return INIT_MEANS[init_means]
    given = dict(init_means or {})
    unknown = [name for name in given if name not in MASK_KINDS]
    if unknown:
        raise ValueError(f"init_means must name mask kinds ({', '.join(MASK_KINDS)}), got {unknown[0]!r}")
    return INIT_MEANS["official"] | given


def _vector_offsets(shape: ModelShape, kinds: tuple[str, ...]) -> Tensor:
    sizes = [0]
    for kind in (MASK_KINDS[name] for name in kinds):
        size = kind.vector_size(shape)
        sizes += [size] * (math.prod(kind.units(shape)) // size)
    return torch.tensor(sizes).cumsum(0).int()
