"""Gates that start near a structure on target, chosen by what the dense model's units are worth.

Gates that start alike are pushed down together, and chance decides which shut first: whole sublayers among them, which
take everything with them. Scores know better (CoLA at 80 %: docs/tried.md), and learning then moves the border.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cofi.masks.gates import MAX_LOGA, Gates
from cofi.masks.shape import ModelShape
from cofi.masks.target import PruningTarget

BORDER = 1 / 3  # of the weights that are kept: so many on either side of the border are open to doubt at the start
HALVINGS = 30
_RANKED = ("head", "int")
_UNITS = {"head": "head", "mha": "head", "int": "int", "ffn": "int"}  # of a kind, whose scores set its gates


def set_by_worth(kinds: Iterable[str]) -> tuple[str, ...]:
    """Those of `kinds` whose gates `start_by_worth` sets: ranked units, and sublayers that none of them is left of."""
    given = set(kinds)
    return tuple(kind for kind, units in _UNITS.items() if {kind, units} <= given)


def unit_weights(shape: ModelShape) -> Tensor:
    """Weights that each unit takes with it, fp32: all heads, then all intermediate dims, layer by layer."""
    costs = torch.tensor([shape.head_weights, shape.int_weights], dtype=torch.float32)
    return costs.repeat_interleave(torch.tensor([shape.n_layers * shape.n_heads, shape.n_layers * shape.d_int]))


@torch.no_grad()
def start_by_worth(
    gates: Gates, scores: Mapping[str, Tensor], target: PruningTarget, goal: float | None = None
) -> None:
    """Set the gates such that their deterministic masks are on target and keep the units of most worth.

    scores: {kind: worth of its units, any scale common to both}, of heads and intermediate dims, (L, H) and (L, I)
    goal:   share of the target's cost to remove; by default its goal
    Units are ranked by worth per weight, of all layers together. Log-odds rise along the rank, through those of an even
    chance at the border, and reach their limits a third of the kept weights away from it. A sublayer that the masks
    leave no unit of is shut, so that the model learns without it; other gates of sublayers, and those of hidden dims,
    stay as they are.
    """
    goal = target.goal if goal is None else goal
    ranks = _ranks(scores, gates.shape)
    views = gates.views()

    def place(border: float) -> None:
        slope = (MAX_LOGA - gates.even) / max((1 - border) * BORDER, 1e-6)
        for kind in views.keys() & ranks.keys():
            views[kind].copy_((gates.even + slope * (ranks[kind] - border)).clamp(-MAX_LOGA, MAX_LOGA))

    low, high = 0.0, 1.0  # a higher border shuts more
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        place(middle)
        short = float(target.of_masks(gates.deterministic().alive())) < goal
        low, high = (middle, high) if short else (low, middle)
    place(high)
    kept = gates.deterministic().without_empty_sublayers().by_kind()
    for kind in views.keys() & {"mha", "ffn"}:
        views[kind].masked_fill_(kept[kind] == 0, -MAX_LOGA)


@torch.no_grad()
def behind_those_kept(gates: Gates, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`scores` for `start_by_worth`, where units that the deterministic masks cut come after all others.

    scores: as there, at least 0, measured under these masks: of a unit that is cut nothing is computed, so nothing is
    known, and those follow in the order of their log-odds.
    """
    masks, views = gates.deterministic().by_kind(), gates.views()
    weights = {"head": gates.shape.head_weights, "int": gates.shape.int_weights}

    def of_kind(kind: str, score: Tensor) -> Tensor:
        if kind not in masks:
            return score
        cut = weights[kind] * (views[kind] - MAX_LOGA - 1.0)  # per weight below 0, whatever the kind
        return torch.where(masks[kind] > 0, score.to(cut), cut).to(score)

    return {kind: of_kind(kind, score) for kind, score in scores.items()}


def _ranks(scores: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    """{kind: share of all ranked weights that are worth less each}; units of the same worth follow their order."""
    weights = unit_weights(shape)
    flat = torch.cat([scores[kind].flatten() for kind in _RANKED]).double()
    order = (flat / weights).argsort(stable=True)
    costs = weights.double()[order]
    ranks = torch.empty_like(flat)
    ranks[order] = (costs.cumsum(0) - costs / 2) / costs.sum()
    parts = ranks.split([scores[kind].numel() for kind in _RANKED])
    return {kind: part.view_as(scores[kind]) for kind, part in zip(_RANKED, parts, strict=True)}
