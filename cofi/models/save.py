"""Write a model directory so that it is either whole or not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from cofi.files import naming
from cofi.models.config import CompactConfig
from cofi.models.hub import TOKENIZER_FILES
from cofi.models.sentence_files import write_sentence_files


def save_model(model: PreTrainedModel, tokenizer: Any, directory: str | Path) -> Path:
    """Save a model and its tokenizer to `directory`, replacing what is there.

    tokenizer: a Hugging Face tokenizer, a directory to copy its files from, or None
    returns the directory, with the files of Sentence Transformers for an embedding head; written beside its place,
    flushed to disk and renamed.
    Raises OSError naming the directory where that cannot be.
    """
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        fresh = Path(folder) / "new"
        model.save_pretrained(fresh)
        _save_tokenizer(tokenizer, fresh)
        if isinstance(model.config, CompactConfig) and model.config.head == "embedding":
            write_sentence_files(model.config, fresh)
        _flush(fresh)
        _replace(target, fresh, Path(folder) / "old")
    return target


def _replace(target: Path, fresh: Path, old: Path) -> None:
    """Rename `fresh` to `target`, whose former directory becomes `old`, or stays where that fails."""
    had = target.exists()
    if had:
        os.replace(target, old)
    try:
        os.replace(fresh, target)
    except OSError:
        if had:
            os.replace(old, target)
        raise


def _save_tokenizer(tokenizer: Any, directory: Path) -> None:
    if tokenizer is None:
        return
    if not isinstance(tokenizer, (str, Path)):
        tokenizer.save_pretrained(directory)
        return
    for pattern in TOKENIZER_FILES:
        for file in Path(tokenizer).glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)


def _flush(directory: Path) -> None:
    for path in (*directory.rglob("*"), directory):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
