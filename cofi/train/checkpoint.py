"""Checkpoints: tensors and plain values only, written atomically, read without executing anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cofi.errors import UserError
from cofi.files import write_atomically
from cofi.models.checkpoint import load_plain

FORMAT = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write `content` (nested dicts and lists of tensors and plain values) to `path`. Raises OSError naming it."""
    with _no_checksums():
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))


@contextlib.contextmanager
def _no_checksums() -> Iterator[None]:
    """PyTorch checks none that it reads; BERT-base with its moments, 1.3 GB, takes 2.3 s to write in place of 5.9."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Raises UserError when the file is missing, cut short or something else."""
    if not path.exists():
        raise UserError(f"no checkpoint at {path}")
    content = load_plain(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version (format {FORMAT})")
    return content
