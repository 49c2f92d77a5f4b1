"""Where a teacher's outputs for the rows of a split are kept: in memory, or in a file that is mapped into it.

T tokens of the split, N rows, E hidden, C numbers of a row or token: its classes or, of an embedding, E. Rows are kept
in chunks that are computed together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cofi.data.split import TokenizedSplit
from cofi.errors import UserError
from cofi.files import read_json, write_atomically
from cofi.models import CompactModel

FORMAT = 3
Index = slice | Tensor
_WRITTEN = 1 << 32  # bit of a chunk's entry in the index; the lower 32 are its checksum


@dataclass(frozen=True)
class Contents:
    """What is kept: states (T, E) after each of `layers`, and `outputs` of the head by name, C numbers for each row or,
    of those in of_tokens, for each token; where C is 0 a number alone."""

    n_tokens: int
    n_rows: int
    hidden: int
    layers: tuple[int, ...]
    outputs: tuple[str, ...]
    of_tokens: tuple[str, ...]
    n_numbers: int  # C
    dtype: str
    chunk_rows: int

    @staticmethod
    def of(model: CompactModel, layers: Sequence[int], split: TokenizedSplit, chunk_rows: int) -> Contents:
        config, head = model.config, model.head
        return Contents(
            n_tokens=int(split.input_ids.starts[-1]),
            n_rows=len(split),
            hidden=config.hidden_size,
            layers=tuple(layers),
            outputs=head.outputs,
            of_tokens=head.outputs if head.of_tokens else (),
            n_numbers=head.width(model),
            dtype=str(model.embeddings.word.weight.dtype).removeprefix("torch."),
            chunk_rows=chunk_rows,
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)  # type: ignore[no-any-return]

    @property
    def n_chunks(self) -> int:
        return -(-self.n_rows // self.chunk_rows)

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the kept tensors, in order: the states, then the outputs."""
        numbers = (self.n_numbers,) if self.n_numbers else ()
        outputs = [(self.n_tokens if name in self.of_tokens else self.n_rows, *numbers) for name in self.outputs]
        return [*([(self.n_tokens, self.hidden)] * len(self.layers)), *outputs]

    def n_bytes(self) -> int:
        return self.torch_dtype.itemsize * sum(int(np.prod(shape)) for shape in self.shapes())


class Kept(NamedTuple):
    """The tensors of a store."""

    states: dict[int, Tensor]
    outputs: dict[str, Tensor]
    of_tokens: tuple[str, ...]

    def at(self, rows: Index, tokens: Index) -> Kept:
        """What there is of some rows and their tokens."""
        states = {layer: kept[tokens] for layer, kept in self.states.items()}
        outputs = {name: kept[tokens if name in self.of_tokens else rows] for name, kept in self.outputs.items()}
        return Kept(states, outputs, self.of_tokens)


class Store:
    """Room for a teacher's outputs, in memory. Pages that are never written take none."""

    def __init__(self, contents: Contents, device: torch.device) -> None:
        self.contents, self.device = contents, device
        self.kept = self._arrange(lambda shape: torch.empty(shape, dtype=contents.torch_dtype, device=device))
        self._filled = np.zeros(contents.n_chunks, dtype=bool)

    def _arrange(self, make: Callable[[tuple[int, ...]], Tensor]) -> Kept:
        contents = self.contents
        tensors = [make(shape) for shape in contents.shapes()]
        n_states = len(contents.layers)
        return Kept(
            dict(zip(contents.layers, tensors[:n_states], strict=True)),
            dict(zip(contents.outputs, tensors[n_states:], strict=True)),
            contents.of_tokens,
        )

    def has(self, chunk: int, rows: slice, tokens: slice) -> bool:
        """Whether the chunk with these rows and tokens is there and sound."""
        return bool(self._filled[chunk])

    def mark(self, chunk: int, rows: slice, tokens: slice) -> None:
        """The chunk has been written."""
        self._filled[chunk] = True


class DiskStore(Store):
    """The same in `folder`, which a later process takes up again where the teacher and the rows are the same.

    outputs.bin is mapped into memory and has its full size from the start, so that a disk that fills up cannot end the
    process; index.bin has an entry a chunk, its checksum, written after it; meta.json says whose outputs they are and
    is written last. A chunk that a crash has torn fails its checksum and is computed again. Raises UserError where the
    folder cannot be written.
    """

    def __init__(self, contents: Contents, folder: Path, meta: dict[str, Any]) -> None:
        self.contents, self.device, self.folder = contents, torch.device("cpu"), folder
        if not is_kept(folder, contents, meta):
            self._create(meta)
        flat = torch.from_file(str(folder / "outputs.bin"), shared=True, size=_file_bytes(contents), dtype=torch.uint8)
        taken = 0

        def part(shape: tuple[int, ...]) -> Tensor:
            nonlocal taken
            begin, taken = taken, taken + int(np.prod(shape)) * contents.torch_dtype.itemsize
            return flat[begin:taken].view(contents.torch_dtype).view(shape)

        self.kept = self._arrange(part)
        self._index = np.memmap(folder / "index.bin", dtype=np.uint64, mode="r+", shape=(contents.n_chunks,))
        self._filled = np.zeros(contents.n_chunks, dtype=bool)  # and found sound by this process

    def _create(self, meta: dict[str, Any]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
            for name, size in (("outputs.bin", _file_bytes(self.contents)), ("index.bin", 8 * self.contents.n_chunks)):
                with open(self.folder / name, "wb") as file:
                    _reserve(file.fileno(), size)
            write_atomically(self.folder / "meta.json", json.dumps(_described(self.contents, meta)).encode())
        except OSError as error:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise UserError(f"--teacher-cache disk: {self.folder} cannot be written: {error.strerror}") from error

    def has(self, chunk: int, rows: slice, tokens: slice) -> bool:
        entry = int(self._index[chunk])
        if not self._filled[chunk] and entry & _WRITTEN:
            self._filled[chunk] = entry == self._checksum(rows, tokens)
        return bool(self._filled[chunk])

    def mark(self, chunk: int, rows: slice, tokens: slice) -> None:
        self._index[chunk] = self._checksum(rows, tokens)
        self._filled[chunk] = True

    def _checksum(self, rows: slice, tokens: slice) -> int:
        kept = self.kept.at(rows, tokens)
        total = 0
        for part in (*kept.states.values(), *kept.outputs.values()):
            total = zlib.crc32(part.view(torch.uint8).numpy().data, total)
        return _WRITTEN | total


def _file_bytes(contents: Contents) -> int:
    return max(contents.n_bytes(), 1)


def _reserve(descriptor: int, size: int) -> None:
    """Give a file its size and the blocks for it."""
    if size and hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    os.ftruncate(descriptor, size)


def _described(contents: Contents, meta: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    described: dict[str, Any] = json.loads(json.dumps({"format": FORMAT, **asdict(contents), **meta}))
    return described


def is_kept(folder: Path, contents: Contents, meta: dict[str, Any]) -> bool:
    """Whether `folder` holds a store of these contents and this origin, as far as names and sizes say."""
    sizes = {"outputs.bin": _file_bytes(contents), "index.bin": 8 * contents.n_chunks}
    if not all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()):
        return False
    try:
        return read_json(folder / "meta.json") == _described(contents, meta)
    except UserError:
        return False


def origin(model: CompactModel, split: TokenizedSplit) -> dict[str, Any]:
    """What the outputs depend on beside the contents: weights, settings, tokens, and the kind of device."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
    tokens = hashlib.sha256(split.input_ids.values.tobytes() + split.token_type_ids.values.tobytes())
    tokens.update(split.input_ids.starts.tobytes())
    return {
        "teacher": digest.hexdigest(),
        "settings": model.config.to_json_string(use_diff=False),
        "tokens": tokens.hexdigest(),
        "device": model.device.type,
        "torch": torch.__version__,
    }
