"""Versions of rows, and in which one an epoch shows each row.

N versions beside the rows themselves, T tokens of a split, P places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cofi.data.augment.candidates import Candidates
from cofi.data.split import Ragged, TokenizedSplit


class Draw(NamedTuple):
    """What a version replaces: `places` (P,) int64 into the tokens, ascending, and by which candidate, `picks` (P,)."""

    places: NDArray[np.int64]
    picks: NDArray[np.int64]


def draw_places(places: NDArray[np.int64], versions: int, probability: float, candidates: int, seed: int) -> list[Draw]:
    """Each of `places` with `probability` in each version, and one of so many candidates for it, all alike likely."""
    draws = []
    for version in range(1, versions + 1):
        random = np.random.Generator(np.random.PCG64([seed, version]))
        chosen = places[random.random(len(places)) < probability]
        draws.append(Draw(chosen, random.integers(0, candidates, len(chosen))))
    return draws


def replaced(ids: Ragged, draws: Sequence[Draw], candidates: Candidates) -> NDArray[np.int32]:
    """(N + 1, T) tokens of all versions, those of the rows themselves first."""
    versions = np.tile(ids.values, (len(draws) + 1, 1))
    for tokens, (places, picks) in zip(versions[1:], draws, strict=True):
        tokens[places] = candidates.take(ids, places, picks)
    return versions


@dataclass(frozen=True)
class Editions:
    """Rows to train on in `count` editions, one after the other in `split`; each holds every row once, in one version.

    Epoch e shows edition e mod count, and in edition k row r is in version (k + r) mod count, version 0 being the row
    itself. So every epoch has all versions, in `count` epochs every row is seen in each, and what is computed for an
    edition only once, such as the teacher's outputs, is not computed before its epoch.
    """

    split: TokenizedSplit
    count: int = 1

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.split) // self.count

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n_rows,) tokens, the same in all editions."""
        return self.split.lengths[: self.n_rows]

    def rows(self, epoch: int, rows: Sequence[int]) -> list[int]:
        """Rows of `split` that epoch `epoch` shows for these rows."""
        first = epoch % self.count * self.n_rows
        return [first + row for row in rows]


def in_editions(split: TokenizedSplit, versions: NDArray[np.int32]) -> Editions:
    """The rows of `split` in all `versions` (N + 1, T), as `replaced` makes them.

    Labels are the row's own; the passages of question answering, which only an evaluation needs, are left out.
    """
    count, starts = len(versions), split.input_ids.starts
    numbers, columns = np.repeat(np.arange(len(split)), split.lengths), np.arange(versions.shape[1])
    ids = np.concatenate([versions[(k + numbers) % count, columns] for k in range(count)])
    joined = np.concatenate([starts[:1], *(starts[1:] + k * starts[-1] for k in range(count))])

    def tiled(values: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if values is None else np.concatenate([values] * count)

    labels = split.token_labels

    shown = TokenizedSplit(
        Ragged(ids, joined),
        Ragged(np.tile(split.token_type_ids.values, count), joined),
        labels=tiled(split.labels),
        start_positions=tiled(split.start_positions),
        end_positions=tiled(split.end_positions),
        token_labels=None if labels is None else Ragged(np.tile(labels.values, count), joined),
    )
    return Editions(shown, count)
