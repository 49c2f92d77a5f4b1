"""Texts as token ids, a chunk of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cofi.data.split import Ragged

CHUNK_ROWS = 1000


def encode(
    texts: list[str],
    pairs: list[str] | None,
    tokenizer: Any,
    max_length: int,
    progress: Callable[[int], None] | None = None,
    look: Callable[[slice, Sequence[Any]], None] | None = None,
) -> tuple[Ragged, Ragged, int]:
    """Token ids, token types, and the number of rows that were cut at max_length, of a pair the longer text first.

    tokenizer: a fast one of transformers. progress(n) is called with the number of rows done, look(rows, encodings)
    with what the tokenizers library knows of some rows.
    """
    ids, types, cut = [], [], 0
    for first in range(0, len(texts), CHUNK_ROWS):
        rows = slice(first, first + CHUNK_ROWS)
        encoded = tokenizer(
            texts[rows],
            None if pairs is None else pairs[rows],
            truncation="longest_first",
            max_length=max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        ids.append(Ragged.of(encoded["input_ids"], np.int32))
        types.append(Ragged.of(encoded["token_type_ids"], np.int8))
        cut += sum(len(row) == max_length and bool(row.overflowing) for row in encoded.encodings)
        if look is not None:
            look(rows, encoded.encodings)
        if progress is not None:
            progress(min(first + CHUNK_ROWS, len(texts)))
    return Ragged.join(ids), Ragged.join(types), cut
