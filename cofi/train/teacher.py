"""The teacher's outputs for a batch: computed, or kept from the first time (it is frozen and has no dropout)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from cofi.data.batches import TaskBatch, collate
from cofi.data.split import TokenizedSplit
from cofi.errors import UserError
from cofi.memory import free_host_bytes
from cofi.models import CompactModel
from cofi.models.packed import sent
from cofi.train.distributed import ALONE, World
from cofi.train.teacher_store import Contents, DiskStore, Store, is_kept, origin

Key = TypeVar("Key", int, str)
CHUNK_ROWS = 64  # rows computed together, always the same ones, so that a run can be repeated from any step
AUTO_SHARE = 0.25  # of the free memory that the cache may take without being asked for
AUTO_DISK_SHARE = 0.5  # of the free disk space, the same
DISK_RESERVE = 10**9  # bytes that stay free on the disk whatever was asked for


@dataclass(frozen=True)
class Target:
    """What the student learns from. hidden_states: (T, E) after each teacher layer that can be matched, by layer."""

    hidden_states: Mapping[int, Tensor]
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    sentence_embedding: Tensor | None = None


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
        return Target(states, **{name: output[name] for name in self.model.head.outputs})


class CachedTeacher(Teacher):
    """Keeps the outputs for the rows of `split` in `store`, filled as rows are asked for."""

    needs_host = True

    def __init__(self, model: CompactModel, layers: Sequence[int], split: TokenizedSplit, store: Store | None = None):
        super().__init__(model, layers)
        self.split = split
        self.store = store or Store(Contents.of(model, layers, split, CHUNK_ROWS), model.device)
        self._starts = split.input_ids.starts

    @torch.no_grad()
    def __call__(self, batch: TaskBatch) -> Target:
        rows = np.asarray(batch.rows)
        for chunk in np.unique(rows // self.store.contents.chunk_rows):
            self._require(int(chunk))
        tokens = np.concatenate([np.arange(*self._starts[row : row + 2]) for row in rows])
        there = self.store.device
        kept = self.store.kept.at(sent(torch.from_numpy(rows), there), sent(torch.from_numpy(tokens), there))
        return Target(self._sent(kept.states), **self._sent(kept.outputs))

    def _sent(self, found: dict[Key, Tensor]) -> dict[Key, Tensor]:
        return {key: sent(tensor, self.model.device) for key, tensor in found.items()}

    def _require(self, chunk: int) -> None:
        size = self.store.contents.chunk_rows
        rows = slice(chunk * size, min((chunk + 1) * size, len(self.split)))
        tokens = slice(int(self._starts[rows.start]), int(self._starts[rows.stop]))
        if not self.store.has(chunk, rows, tokens):
            self._fill(rows, tokens)
            self.store.mark(chunk, rows, tokens)

    def _fill(self, rows: slice, tokens: slice) -> None:
        computed = super().__call__(collate(self.split, range(rows.start, rows.stop), self.model.device))
        room = self.store.kept.at(rows, tokens)  # views, as both are slices
        for layer, state in computed.hidden_states.items():
            room.states[layer].copy_(state)
        for name, values in room.outputs.items():
            values.copy_(getattr(computed, name))


def free_bytes(device: torch.device) -> int:
    """Memory that is free on `device`; on the CPU, for this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_host_bytes()


def free_disk_bytes(folder: Path) -> int:
    """Bytes that may still be written where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


class _Plan(NamedTuple):
    """How the outputs are kept ("ram", "disk" or "none"), a line that says so, and whose the file is."""

    kept: str
    line: str
    meta: dict[str, Any]


def make_teacher(
    model: CompactModel,
    layers: Sequence[int],
    split: TokenizedSplit,
    cache: str,
    folder: Path | None = None,
    world: World = ALONE,
) -> tuple[Teacher, str]:
    """The teacher with or without a cache, and a line that says which and how large.

    cache: "none"; "ram"; "disk" (a file in `folder`); or "auto": in memory where it takes at most a quarter of what is
    free, else, with a teacher on the CPU, on a disk where it takes at most half, else none. Raises UserError where what
    was asked for does not fit.

    Several processes decide together. In memory each keeps what it has asked for, after some epochs all of it; the file
    they have in common, for a chunk that two of them compute at once they write alike.
    """
    contents = Contents.of(model, layers, split, CHUNK_ROWS)
    plan = world.decide(lambda: _plan(model, split, contents, cache, folder, world))
    if plan.kept == "none":
        return Teacher(model, layers), plan.line
    if plan.kept == "ram":
        return CachedTeacher(model, layers, split), plan.line
    assert folder is not None
    store = world.in_turn(lambda: DiskStore(contents, folder, plan.meta))
    return CachedTeacher(model, layers, split, store), plan.line


def _plan(
    model: CompactModel, split: TokenizedSplit, contents: Contents, cache: str, folder: Path | None, world: World
) -> _Plan:
    sharing = world.local_size if model.device.type == "cpu" else 1  # processes whose caches take the same memory
    need, free = sharing * contents.n_bytes(), free_bytes(model.device)
    size = f"{need / 1e9:.2f} GB, {free / 1e9:.1f} GB free"
    if cache == "ram" and need > free:
        raise UserError(f"--teacher-cache ram does not fit: {size}")
    if cache == "ram" or (cache == "auto" and need <= AUTO_SHARE * free):
        return _Plan("ram", f"teacher outputs are kept in memory ({size})", {})
    asked = cache == "disk"
    if asked and world.local_size < world.size:
        raise UserError("--teacher-cache disk needs all processes on one machine, whose file it is")
    if folder is not None and cache != "none" and world.local_size == world.size:
        on_disk = _on_disk(model, split, contents, folder, asked=asked)
        if on_disk is not None:
            return on_disk
    return _Plan("none", f"teacher outputs are computed at every step (a cache would take {size})", {})


def _on_disk(
    model: CompactModel, split: TokenizedSplit, contents: Contents, folder: Path, *, asked: bool
) -> _Plan | None:
    """None where it was not asked for and does not pay or takes too much. What an earlier process kept is free."""
    if not asked and model.device.type != "cpu":  # a GPU computes them faster than a disk reads them
        return None
    need, free = contents.n_bytes(), free_disk_bytes(folder)
    meta = origin(model, split)
    again = is_kept(folder, contents, meta)
    size = f"{need / 1e9:.2f} GB, {free / 1e9:.1f} GB free"
    if not again and need > (free - DISK_RESERVE if asked else AUTO_DISK_SHARE * free):
        if asked:
            raise UserError(f"--teacher-cache disk does not fit into {folder.parent}: {size}, of which 1 GB stays free")
        return None
    how = "taken up again from" if again else "kept in"
    line = f"teacher outputs are {how} {folder} ({size}) and deleted when the run is finished"
    return _Plan("disk", line, meta)
