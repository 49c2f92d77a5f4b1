"""The teacher's outputs for a batch: computed, or kept from the first time (it is frozen and has no dropout)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cofi.data.batches import TaskBatch, collate
from cofi.data.split import TokenizedSplit
from cofi.errors import UserError
from cofi.models import CompactModel

CHUNK_ROWS = 64  # rows computed together, always the same ones, so that a run can be repeated from any step
AUTO_SHARE = 0.25  # of the free memory that the cache may take without being asked for


@dataclass(frozen=True)
class Target:
    """What the student learns from. hidden_states: (T, E) after each teacher layer that can be matched, by layer."""

    logits: Tensor | None
    start_logits: Tensor | None
    end_logits: Tensor | None
    hidden_states: Mapping[int, Tensor]


class Teacher:
    """Computes the teacher's outputs for every batch anew. `layers`: those whose states are needed."""

    needs_host = False  # whether a call does work on the host, which a CUDA graph could not repeat

    def __init__(self, model: CompactModel, layers: Sequence[int]) -> None:
        self.model = model
        self.layers = tuple(layers)

    @torch.no_grad()
    def __call__(self, batch: TaskBatch) -> Target:
        output = self.model(batch=batch.packed, output_hidden_states=bool(self.layers))
        states = {layer: output.hidden_states[layer + 1] for layer in self.layers}
        return Target(output.logits, output.start_logits, output.end_logits, states)


class CachedTeacher(Teacher):
    """Keeps the outputs for the rows of `split` in the memory of the teacher's device, filled as rows are asked for."""

    needs_host = True

    def __init__(self, model: CompactModel, layers: Sequence[int], split: TokenizedSplit) -> None:
        super().__init__(model, layers)
        self.split = split
        self._filled = np.zeros(-(-len(split) // CHUNK_ROWS), dtype=bool)
        self._starts = split.input_ids.starts
        n_tokens, hidden = int(self._starts[-1]), model.config.hidden_size
        empty = model.embeddings.word.weight.new_empty  # pages that are never written take no memory
        self._states = {layer: empty((n_tokens, hidden)) for layer in self.layers}
        answers = split.passages is not None
        self._logits = None if answers else empty((len(split), model.config.num_labels or 0))
        self._spans = empty((2, n_tokens)) if answers else None

    @torch.no_grad()
    def __call__(self, batch: TaskBatch) -> Target:
        rows = np.asarray(batch.rows)
        for chunk in np.unique(rows // CHUNK_ROWS):
            if not self._filled[chunk]:
                self._fill(int(chunk))
        device = self.model.device
        tokens = np.concatenate([np.arange(self._starts[row], self._starts[row + 1]) for row in rows])
        index = torch.from_numpy(tokens).to(device)
        states = {layer: kept[index] for layer, kept in self._states.items()}
        if self._spans is not None:
            start, end = self._spans[:, index]
            return Target(None, start, end, states)
        assert self._logits is not None
        return Target(self._logits[torch.from_numpy(rows).to(device)], None, None, states)

    def _fill(self, chunk: int) -> None:
        first, last = chunk * CHUNK_ROWS, min((chunk + 1) * CHUNK_ROWS, len(self.split))
        computed = super().__call__(collate(self.split, range(first, last), self.model.device))
        tokens = slice(int(self._starts[first]), int(self._starts[last]))
        for layer, state in computed.hidden_states.items():
            self._states[layer][tokens] = state
        if self._spans is not None:
            assert computed.start_logits is not None and computed.end_logits is not None
            self._spans[0, tokens], self._spans[1, tokens] = computed.start_logits, computed.end_logits
        elif self._logits is not None and computed.logits is not None:
            self._logits[first:last] = computed.logits
        self._filled[chunk] = True


def cache_bytes(model: CompactModel, n_layers: int, split: TokenizedSplit) -> int:
    """Memory that the outputs for all rows of `split` take."""
    n_tokens = int(split.input_ids.starts[-1])
    per_token = n_layers * model.config.hidden_size + (2 if split.passages is not None else 0)
    per_row = 0 if split.passages is not None else model.config.num_labels or 0
    return 4 * (n_tokens * per_token + len(split) * per_row)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def make_teacher(model: CompactModel, layers: Sequence[int], split: TokenizedSplit, cache: str) -> tuple[Teacher, str]:
    """The teacher with or without a cache, and a line that says which and how large.

    cache: "none", "ram", or "auto" (where it takes at most a quarter of the free memory). Raises UserError where "ram"
    does not fit.
    """
    need, free = cache_bytes(model, len(layers), split), free_bytes(model.device)
    size = f"{need / 1e9:.2f} GB, {free / 1e9:.1f} GB free"
    if cache == "ram" and need > free:
        raise UserError(f"--teacher-cache ram does not fit: {size}")
    if cache == "none" or (cache == "auto" and need > AUTO_SHARE * free):
        return Teacher(model, layers), f"teacher outputs are computed at every step (a cache would take {size})"
    return CachedTeacher(model, layers, split), f"teacher outputs are kept in memory ({size})"
