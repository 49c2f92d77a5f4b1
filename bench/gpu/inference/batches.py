"""Batches that are measured: even ones of 128 tokens, and lengths as those of MNLI's sentence pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench import sentences
from cofi.errors import UserError
from cofi.models import PackedBatch
from cofi.models.packed import from_lists

# tokens of the 9,815 pairs of MNLI's validation_matched in BERT's uncased vocabulary, at the quantiles 1/80, 3/80, ...
MNLI_QUANTILES = (
    *(12, 14, 16, 18, 19, 20, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35),
    *(37, 38, 39, 40, 41, 43, 44, 45, 47, 49, 50, 52, 54, 56, 58, 61, 65, 69, 76, 93),
)
LONGEST = 128  # as the official recipe cuts
RAGGED = (1, 128, 17, 33, 64, 5, 90, 100, 2, 31)  # for correctness: one token, one tile and more, none a multiple


@dataclass(frozen=True)
class Batch:
    """packed: what our engines take; input_ids, valid (B, S): what padded ones take; valid None where all is."""

    name: str
    lengths: list[int]
    packed: PackedBatch
    input_ids: Tensor
    valid: Tensor | None

    def to(self, device: str) -> Batch:
        valid = None if self.valid is None else self.valid.to(device)
        return replace(self, packed=self.packed.to(device), input_ids=self.input_ids.to(device), valid=valid)


def mnli_like(n: int, longest: int = LONGEST) -> list[int]:
    """n lengths of that distribution (mean 38.9), in a fixed random order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).tolist()
    return [min(MNLI_QUANTILES[(len(MNLI_QUANTILES) * i) // n], longest) for i in order]


def real_mnli(n: int, data: Path | None) -> list[int] | None:
    """Lengths of the first n pairs of MNLI's validation_matched; None, which is said, where something is missing."""
    try:
        return [min(length, LONGEST) for length in sentences.of_task("mnli", n, data)]
    except UserError as error:
        print(f"MNLI's own lengths are not there, lengths like them are taken: {error}", flush=True)
        return None


def make(name: str, lengths: list[int], vocabulary: int, seed: int = 0) -> Batch:
    """Random tokens, drawn anew for every seed."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(1, vocabulary, (n,), generator=generator) for n in lengths]
    padded = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    even = min(lengths) == max(lengths)
    return Batch(name, lengths, from_lists([r.tolist() for r in rows]), padded, None if even else valid)
