"""What a word may be replaced by: the words nearest to it in a table of embeddings.

V tokens, E dims, W words, R rows of a table, K candidates of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cofi.data.split import Ragged

CANDIDATES = 15  # TinyBERT's K
CHUNK_NUMBERS = 1 << 24  # similarities at once, 64 MiB


@dataclass(frozen=True)
class Candidates:
    """table: (R, K) int32 token ids, the best first. keys: (R,) ascending, what each row is for: a token id, or, where
    they depend on the context (by_place), a place among the tokens of a split."""

    keys: NDArray[np.int64]
    table: NDArray[np.int32]
    by_place: bool = False

    def take(self, ids: Ragged, places: NDArray[np.int64], picks: NDArray[np.int64]) -> NDArray[np.int32]:
        """(P,) candidate `picks` of the tokens at `places`."""
        keys = places if self.by_place else ids.values[places]
        found: NDArray[np.int32] = self.table[np.searchsorted(self.keys, keys), picks]
        return found


def nearest_words(
    embeddings: Tensor, words: NDArray[np.int64], asked: NDArray[np.int64], count: int = CANDIDATES
) -> Candidates:
    """The `count` words, or as many as there are, whose embeddings have the largest cosine with that of each word of
    `asked`, itself left out.

    embeddings: (V, E) floating point on any device; computed in fp32 on the CPU, so that another device gives the same
    ones. words: (W,) ascending token ids, at least two. asked: ascending, part of `words`.
    """
    rows = F.normalize(embeddings.detach()[torch.from_numpy(words).to(embeddings.device)].float().cpu(), dim=1)
    count = min(count, len(words) - 1)
    own = torch.from_numpy(np.searchsorted(words, asked))
    chunk = max(1, CHUNK_NUMBERS // len(words))
    found = []
    for mine in own.split(chunk):
        cosines = rows[mine] @ rows.T
        cosines[torch.arange(len(mine)), mine] = -torch.inf
        found.append(cosines.topk(count, dim=1).indices)
    nearest = torch.cat(found).numpy() if found else np.empty((0, count), dtype=np.int64)
    return Candidates(asked, words[nearest].astype(np.int32))
